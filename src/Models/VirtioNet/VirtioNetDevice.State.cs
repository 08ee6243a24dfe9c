using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Models.VirtioNet;

// The state that moves: what the driver set by commands, and whether the link is up. The frames that wait do not: a network loses some.
public sealed partial class VirtioNetDevice
{
    private const string StateSectionName = "virtio-net";
    private const ushort StateVersion = 1;

    /// <inheritdoc/>
    protected override bool TrySaveModel(StateWriter writer, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(writer);
        writer.Add(StateSectionName, StateVersion, NetImage.Write(Settings, _options.Mtu));
        return Done(out fault);
    }

    /// <inheritdoc/>
    protected override bool TryReadModel(StateReader reader, out Action apply, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(reader);
        apply = static () => { };
        if (!reader.TryTake(StateSectionName, StateVersion, NetImage.Size, NetImage.Size, out var section, out fault))
            return false;
        var image = new NetImage(section.Content.Span);
        if (image.WhatIsWrong(_options) is { } why)
            return Refuse(Errno.EINVAL, $"section '{section.Name}', version {section.Version}, {why}", out fault);
        apply = () => image.Apply(Settings);
        return true;
    }
}
