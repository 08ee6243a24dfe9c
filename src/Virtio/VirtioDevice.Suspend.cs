using Virtbus.Platform;

namespace Virtbus.Virtio;

// Suspension by the driver (VIRTIO 1.4, 3.4). A transport that offers VIRTIO_F_SUSPEND asks for it; a model knows nothing of it: its queues stand still.
public abstract partial class VirtioDevice
{
    // Whether a change of the configuration is owed 1, then the configuration that the driver sees.
    private const string SuspensionSection = "virtio-suspended";

    private bool _isSuspending;
    // What the driver reads while the device is suspended, whatever changes meanwhile.
    private byte[]? _frozenConfig;

    /// <summary>Whether the driver has suspended the device.</summary>
    public bool IsSuspended => (Status & VirtioStatus.SUSPEND) != 0;

    /// <summary>
    /// Suspends the device for a driver that asks for it by SUSPEND and then for the status until that bit stands and DRIVER_OK does not: no buffer is taken any
    /// more, those in work are finished, and the driver is told of them. It is done when the call returns, but for a queue that has to wait for a peer that is
    /// reached by messages. From then on rings are left alone, nobody is told of anything, and the configuration stays as it is read; the driver is told of
    /// its change when it has set DRIVER_OK again (<see cref="TrySetStatus"/>). Without effect where DRIVER_OK is not set.
    /// </summary>
    /// <remarks>Whether the driver took VIRTIO_F_SUSPEND is the transport's to know. What fails in between sets DEVICE_NEEDS_RESET.</remarks>
    public void BeginSuspend()
    {
        using (Hold())
        {
            if (_disposed || _isResetting || _isSuspending || (Status & VirtioStatus.DRIVER_OK) == 0)
                return;
            _isSuspending = true;
            foreach (var queue in _queues)
                queue.BeginStop();
        }

        // What failed is told between the two: of one that is suspended nobody is told of anything.
        using (Hold())
            TryEndSuspending();
    }

    private void TryEndSuspending()
    {
        if (!_isSuspending || HasEnding)
            return;
        _isSuspending = false;
        var config = new byte[ConfigSize];
        ReadConfig(0, config, SettledFeatures);
        _frozenConfig = config;
        Interlocked.Or(ref _status, VirtioStatus.SUSPEND);
        Interlocked.And(ref _status, ~VirtioStatus.DRIVER_OK);
    }

    // DRIVER_OK is set already.
    private void EndSuspension()
    {
        if (!IsSuspended)
            return;
        _frozenConfig = null;
        Interlocked.And(ref _status, ~VirtioStatus.SUSPEND);
        if (_owesConfigNotice)
            Volatile.Write(ref _configGeneration, _configGeneration + 1);
    }

    private void ForgetSuspension()
    {
        _isSuspending = false;
        _frozenConfig = null;
        // Whoever begins anew reads it.
        if (!_isPaused)
            _owesConfigNotice = false;
    }

    // Whether the driver is to be told now of what changed while the device stood still.
    private bool TakeConfigNotice()
    {
        if (!_owesConfigNotice || _isPaused || IsSuspended)
            return false;
        _owesConfigNotice = false;
        return true;
    }

    private void SaveSuspension(StateWriter writer)
    {
        if (_frozenConfig is { } config)
            writer.Add(SuspensionSection, StateVersion, [_owesConfigNotice ? (byte)1 : (byte)0, .. config]);
    }

    private bool TryReadSuspension(StateReader reader, byte status, out byte[]? suspension, out Fault fault)
    {
        suspension = null;
        if ((status & VirtioStatus.SUSPEND) == 0)
            return Done(out fault);
        var size = 1 + ConfigSize;
        if (!reader.TryTake(SuspensionSection, StateVersion, size, size, out var section, out fault))
            return false;
        if (section.Content.Span[0] > 1)
            return Refuse(section, "has a flag that there is not", out fault);
        suspension = section.Content.ToArray();
        return true;
    }

    private void ApplySuspension(byte[]? suspension)
    {
        _isSuspending = false;
        _frozenConfig = suspension?[1..];
        _owesConfigNotice |= suspension is [1, ..];
    }
}
