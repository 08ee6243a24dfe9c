namespace Virtbus.Block;

/// <summary>Which way a file's transfers go where there is a choice.</summary>
internal enum FileWay
{
    /// <summary>The page cache in place, the rest by io_uring, or by the worker where the host has none.</summary>
    Best,
    /// <summary>All by io_uring.</summary>
    Uring,
    /// <summary>All by the worker.</summary>
    Worker,
}
