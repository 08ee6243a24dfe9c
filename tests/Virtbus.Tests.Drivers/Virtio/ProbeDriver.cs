using Virtbus.Buses.Virtio;
using Virtbus.Virtio;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A driver of the virtio bus whose probe a test writes.</summary>
internal sealed class ProbeDriver(VirtioBus bus, uint type) : VirtioDriver(bus, "probe", new VirtioMatchId(type))
{
    internal Func<VirtioBusDevice, ValueTask>? OnProbe { get; set; }

    internal Func<VirtioFeatures, VirtioFeatures> Choice { get; set; } = static features => features;

    internal int Changes;

    public override VirtioFeatures Features => VirtioFeatures.None;

    protected internal override VirtioFeatures Validate(VirtioBusDevice device, VirtioFeatures features) => Choice(features);

    protected override ValueTask ProbeAsync(VirtioBusDevice device, CancellationToken cancellationToken) => OnProbe?.Invoke(device) ?? default;

    protected internal override void OnConfigChanged(VirtioBusDevice device) => Interlocked.Increment(ref Changes);
}
