using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Subsystems.HwRandom;

/// <summary>The one device of the subsystem: Linux's attributes, and the bytes, which there are in <c>/dev/hwrng</c>.</summary>
internal sealed class HwRandomDevice(HwRandomSubsystem subsystem, Class @class) : Device("hw_random", parent: null, bus: null, @class)
{
    private const int Bytes = 32;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(1);

    protected override IReadOnlyList<AttributeGroup> AttributeGroups => Groups;

    private static readonly AttributeGroup[] Groups =
    [
        new(
            new ObjectAttribute<HwRandomDevice>("data", static d => d.Read()),
            new ObjectAttribute<HwRandomDevice>("rng_available", static d => string.Join(' ', d.Subsystem.Sources.Select(static s => s.Name))),
            new ObjectAttribute<HwRandomDevice>(
                "rng_current", static d => d.Subsystem.Current?.Name ?? "none", static (d, value, _) => d.Subsystem.ChooseAsync(value), isString: true),
            new ObjectAttribute<HwRandomDevice>("rng_selected", static d => d.Subsystem.IsChosen ? "1" : "0")),
    ];

    private new HwRandomSubsystem Subsystem => subsystem;

    // New bytes at each read.
    private string Read()
    {
        var source = subsystem.Current ?? throw new VirtbusException(Errno.ENODEV, $"{DevPath}/data: there is no entropy source. Bind a driver to one.");
        Span<byte> bytes = stackalloc byte[Bytes];
        var count = source.Read(bytes, Patience);
        if (count == 0)
            throw new VirtbusException(Errno.EAGAIN, $"{DevPath}/data: {source.Name} gives no bytes. Look at its device, or choose another one in rng_current.");
        return Convert.ToHexStringLower(bytes[..count]);
    }
}
