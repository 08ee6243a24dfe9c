using Virtbus.Buses.Pci;
using Virtbus.Pci;

namespace Virtbus.Drivers.VfioPci;

/// <summary>
/// Lets a function decode memory for as long as its MSI-X table is written, whatever its user has made of the command register. Only the
/// register's low byte is touched: the interrupts of the bus write the other one.
/// </summary>
internal readonly ref struct DecodeScope
{
    private readonly PciDevice? _device;

    public DecodeScope(PciDevice device)
    {
        if (device.PhysicalFunction is not null || device.IsGone)
            return;
        var command = ReadCommand(device);
        if ((command & PciCommand.PCI_COMMAND_MEMORY) != 0)
            return;
        WriteCommand(device, (byte)(command | PciCommand.PCI_COMMAND_MEMORY));
        _device = device;
    }

    public void Dispose()
    {
        if (_device is not null)
            WriteCommand(_device, (byte)(ReadCommand(_device) & ~PciCommand.PCI_COMMAND_MEMORY));
    }

    public static byte ReadCommand(PciDevice device)
    {
        Span<byte> value = stackalloc byte[1];
        device.ReadConfig(PciHeader.PCI_COMMAND, value);
        return value[0];
    }

    public static void WriteCommand(PciDevice device, byte value) => device.WriteConfig(PciHeader.PCI_COMMAND, [value]);
}
