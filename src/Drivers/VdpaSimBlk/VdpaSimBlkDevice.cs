using System.Globalization;
using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Drivers.VdpaSimBlk;

/// <summary>What simulated disks hang under. Writes to its files make and remove them.</summary>
internal sealed class VdpaSimBlkDevice(VdpaBus bus) : Device("vdpasim_blk")
{
    private const int MaxSerial = 20;

    private static readonly AttributeGroup[] Groups =
    [
        new(
            new ObjectAttribute<VdpaSimBlkDevice>("delete_device", null, static (d, value, _) => d.DeleteAsync(value), isString: true),
            new ObjectAttribute<VdpaSimBlkDevice>("new_device", null, static (d, value, _) => d.CreateAsync(value), isString: true)),
    ];

    private static readonly (string Suffix, int Shift)[] Units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

    protected override IReadOnlyList<AttributeGroup> AttributeGroups => Groups;

    private VdpaManagement Management => bus.Managements.FirstOrDefault(m => m.Device == this)
        ?? throw new VirtbusException(Errno.ENODEV, $"{Name} is going away. Load the module vdpa_sim_blk again.");

    private async ValueTask CreateAsync(string value)
    {
        var words = value.Split(' ', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        var queues = 1;
        if (words.Length is not (2 or 3) || !TryParseSize(words[1], out var capacity)
            || (words.Length == 3 && !int.TryParse(words[2], NumberStyles.None, CultureInfo.InvariantCulture, out queues)))
        {
            throw new VirtbusException(Errno.EINVAL,
                $"'{value}' says no disk for {Name}/new_device. Write its name, its size and the number of queues, for example: disk1 64MiB 2");
        }

        var name = words[0];
        if (!name.All(c => char.IsAsciiLetterOrDigit(c) || c is '_' or '.' or '-'))
            throw new VirtbusException(Errno.EINVAL, $"'{name}' is no name of a disk. Write letters, digits, '_', '.' and '-', for example: disk1");
        var serial = name.Length <= MaxSerial ? name : name[..MaxSerial];
        await Management.AddAsync(new VdpaProfile(name, VirtioDeviceId.VIRTIO_ID_BLOCK, "", serial, queues, capacity));
    }

    private async ValueTask DeleteAsync(string value)
    {
        var name = value.Trim();
        var device = Children.OfType<VdpaDevice>().FirstOrDefault(d => d.Name == name)
            ?? throw new VirtbusException(Errno.ENODEV, $"{Name} has no disk '{name}'. Look at its folder for those that it has.");
        await Management.RemoveAsync(device);
    }

    private static bool TryParseSize(string text, out long bytes)
    {
        var shift = 0;
        foreach (var unit in Units)
        {
            if (!text.EndsWith(unit.Suffix, StringComparison.Ordinal))
                continue;
            shift = unit.Shift;
            text = text[..^unit.Suffix.Length];
            break;
        }
        var read = long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number <= long.MaxValue >> shift;
        bytes = read ? number << shift : 0;
        return read;
    }
}
