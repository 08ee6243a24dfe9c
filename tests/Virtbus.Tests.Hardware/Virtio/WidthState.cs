namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>How far a driver has brought a function.</summary>
internal enum WidthState
{
    /// <summary>Nobody has touched it.</summary>
    Reset,

    /// <summary>A driver of the standard runs, with MSI-X.</summary>
    Running,

    /// <summary>A transitional one that nobody has touched.</summary>
    Legacy,

    /// <summary>A driver of its ports runs.</summary>
    LegacyRunning,

    /// <summary>The same with MSI-X, by which the configuration is four bytes further.</summary>
    LegacyMsix,
}
