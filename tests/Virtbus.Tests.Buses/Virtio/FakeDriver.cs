using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Virtio;

namespace Virtbus.Tests.Buses.Virtio;

/// <summary>A driver whose probe a test writes.</summary>
internal sealed class FakeDriver(VirtioBus bus, string name, params VirtioMatchId[] ids) : VirtioDriver(bus, name, ids)
{
    public Action<VirtioBusDevice>? OnProbe { get; set; }

    public Action<VirtioBusDevice>? OnRemove { get; set; }

    public Func<IVirtioIdentity, bool>? Wants { get; set; }

    public Func<ValueTask>? OnLettingGo { get; set; }

    public Func<ValueTask>? OnFreeze { get; set; }

    public Func<VirtioFeatures, VirtioFeatures> Choice { get; set; } = static features => features.Without(2);

    /// <summary>What freeze and restore fail with.</summary>
    public Exception? PowerError { get; set; }

    public int Changes;

    public int Frozen { get; private set; }

    public int Restored { get; private set; }

    public override VirtioFeatures Features => VirtioFeatures.Of(1, 2, 3);

    protected override bool Accepts(IVirtioIdentity device) => Wants?.Invoke(device) ?? true;

    protected internal override VirtioFeatures Validate(VirtioBusDevice device, VirtioFeatures features) => Choice(features);

    protected override ValueTask ProbeAsync(VirtioBusDevice device, CancellationToken cancellationToken)
    {
        OnProbe?.Invoke(device);
        return default;
    }

    protected override ValueTask RemoveAsync(VirtioBusDevice device)
    {
        OnRemove?.Invoke(device);
        return OnLettingGo?.Invoke() ?? default;
    }

    protected override ValueTask FreezeAsync(VirtioBusDevice device)
    {
        Frozen++;
        return PowerError is null ? OnFreeze?.Invoke() ?? default : ValueTask.FromException(PowerError);
    }

    protected override ValueTask RestoreAsync(VirtioBusDevice device)
    {
        Restored++;
        return PowerError is null ? default : ValueTask.FromException(PowerError);
    }

    protected internal override void OnConfigChanged(VirtioBusDevice device) => Interlocked.Increment(ref Changes);
}
