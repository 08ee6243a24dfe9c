using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Models.VirtioNet;

// The state that moves: what the driver set by commands, and whether the link is up. The frames that wait do not: a network loses some.
public sealed partial class VirtioNetDevice
{
    private const string StateSectionName = "virtio-net";
    private const string CoalescingSection = "virtio-net-coalescing";
    private const ushort StateVersion = 1;

    /// <inheritdoc/>
    protected override bool TrySaveModel(StateWriter writer, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(writer);
        writer.Add(StateSectionName, StateVersion, NetImage.Write(Settings, _options.Mtu));
        // A device that knows nothing of it takes the state of a driver that made no use of it.
        if (!Coalescing.IsDefault)
            writer.Add(CoalescingSection, StateVersion, Coalescing.Save());
        return Done(out fault);
    }

    /// <inheritdoc/>
    protected override bool TryReadModel(StateReader reader, VirtioFeatures driverFeatures, out Action apply, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(reader);
        apply = static () => { };
        if (!reader.TryTake(StateSectionName, StateVersion, NetImage.Size, NetImage.Size, out var section, out fault))
            return false;
        var image = new NetImage(section.Content.Span);
        if (image.WhatIsWrong(_options) is { } why)
            return Refuse(Errno.EINVAL, $"section '{section.Name}', version {section.Version}, {why}", out fault);
        var size = Coalescing.ImageBytes;
        if (!reader.TryTakeIfThere(CoalescingSection, StateVersion, size, size, out var coalescing, out fault))
            return false;
        var parameters = coalescing is { } there ? there.Content.ToArray() : new byte[size];
        if (!Coalescing.IsPossible(parameters, driverFeatures))
            return Refuse(Errno.EINVAL, $"section '{CoalescingSection}', version {StateVersion}, has what its driver can't have set", out fault);
        apply = () =>
        {
            image.Apply(Settings);
            Coalescing.Restore(parameters);
        };
        return true;
    }
}
