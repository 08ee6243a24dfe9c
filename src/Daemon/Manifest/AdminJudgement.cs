namespace Virtbus.Daemon.Manifest;

/// <summary>How an administration queue judges commands.</summary>
internal enum AdminJudgement
{
    /// <summary>As Linux needs it.</summary>
    Linux,

    /// <summary>By the standard to the letter.</summary>
    Strict,

    /// <summary>There is none.</summary>
    Off,
}
