namespace Virtbus.Daemon;

/// <summary>How far a daemon is.</summary>
internal enum DaemonState
{
    /// <summary>The manifest is being applied.</summary>
    Starting,
    /// <summary>All that the manifest names is there, and every probe that it caused has ended.</summary>
    Ready,
    /// <summary>Going down.</summary>
    Stopping,
}
