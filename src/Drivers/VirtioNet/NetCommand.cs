namespace Virtbus.Drivers.VirtioNet;

/// <summary>A command of the control queue: class and number (VIRTIO 1.3, 5.1.6.5).</summary>
/// <param name="Class">Its class.</param>
/// <param name="Number">Its number in the class.</param>
internal readonly record struct NetCommand(byte Class, byte Number)
{
    internal static readonly NetCommand Promiscuous = new(0, 0);
    internal static readonly NetCommand AllMulticast = new(0, 1);
    internal static readonly NetCommand SetAddress = new(1, 1);
    internal static readonly NetCommand AddVlan = new(2, 0);
    internal static readonly NetCommand RemoveVlan = new(2, 1);
    internal static readonly NetCommand AcknowledgeAnnounce = new(3, 0);
    internal static readonly NetCommand SetPairs = new(4, 0);
}
