namespace Virtbus.Block;

/// <summary>What a block request wants.</summary>
public enum BlockOperation
{
    /// <summary>Fill the runs from the backend.</summary>
    Read,
    /// <summary>Store the runs in the backend.</summary>
    Write,
    /// <summary>Make durable what was written before; there are no runs.</summary>
    Flush,
}
