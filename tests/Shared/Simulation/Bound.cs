namespace Virtbus.Tests;

/// <summary>What the driver callbacks of a device have been called for, as the simulation believes it.</summary>
internal enum Bound
{
    No,
    Probing,
    Yes,
    Removing,
}
