using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Models.VirtioNet;

/// <summary>
/// How a driver wants to be told of the buffers of each queue (VIRTIO 1.3, 5.1.6.5.9): what it said of all queues of a kind, and what of one. The last word
/// counts; a queue that is enabled anew has that of its kind. Any thread; the lock is held for the exchange only.
/// </summary>
/// <param name="device">The device, which is told.</param>
/// <param name="queues">Its receive and transmit queues; a driver of one pair has two.</param>
internal sealed class NetCoalescing(VirtioNetDevice device, int queues)
{
    private readonly Lock _lock = new();
    // Receive, transmit: as the numbers of queues go.
    private readonly Coalescing[] _kinds = new Coalescing[2];
    private readonly Coalescing[] _queues = new Coalescing[queues];

    /// <summary>Bytes of the state: that of receive and of transmit queues, then that of each queue.</summary>
    internal int ImageBytes => (2 + _queues.Length) * Coalescing.Bytes;

    /// <summary>Whether all is as after a reset.</summary>
    internal bool IsDefault
    {
        get
        {
            lock (_lock)
                return !_kinds.AsSpan().ContainsAnyExcept(default(Coalescing)) && !_queues.AsSpan().ContainsAnyExcept(default(Coalescing));
        }
    }

    /// <summary>How many receive and transmit queues a driver of these features has.</summary>
    internal int QueuesOf(VirtioFeatures features) => features.Has(VIRTIO_NET_F_MQ) || features.Has(VIRTIO_NET_F_RSS) ? _queues.Length : 2;

    /// <summary>Sets all queues of a kind.</summary>
    /// <param name="kind">0 receive, 1 transmit.</param>
    /// <param name="value">What.</param>
    /// <param name="features">What the driver took.</param>
    /// <param name="generation">Which user of the device it is; for another one all stays.</param>
    internal void SetKind(int kind, Coalescing value, VirtioFeatures features, int generation)
    {
        lock (_lock)
        {
            // A reset makes another user first, and then comes here.
            if (generation != device.Settings.Generation)
                return;
            _kinds[kind] = value;
            for (var queue = kind; queue < QueuesOf(features); queue += 2)
                SetLocked(queue, value);
        }
    }

    /// <summary>Sets one queue, which is one of the driver's, as <see cref="SetKind"/> does all.</summary>
    internal void Set(int queue, Coalescing value, int generation)
    {
        lock (_lock)
        {
            if (generation == device.Settings.Generation)
                SetLocked(queue, value);
        }
    }

    internal Coalescing Get(int queue)
    {
        lock (_lock)
            return _queues[queue];
    }

    /// <summary>A queue is enabled; what was said of it before does not count.</summary>
    internal void Enable(int queue, VirtioFeatures features)
    {
        lock (_lock)
        {
            if (queue < QueuesOf(features))
                SetLocked(queue, _kinds[queue & 1]);
        }
    }

    internal void Reset()
    {
        lock (_lock)
        {
            Array.Clear(_kinds);
            for (var queue = 0; queue < _queues.Length; queue++)
                SetLocked(queue, default);
        }
    }

    internal byte[] Save()
    {
        var bytes = new byte[ImageBytes];
        lock (_lock)
        {
            for (var i = 0; i < 2 + _queues.Length; i++)
                (i < 2 ? _kinds[i] : _queues[i - 2]).Write(bytes.AsSpan(i * Coalescing.Bytes));
        }

        return bytes;
    }

    /// <summary>Whether a driver of these features can have set what <see cref="Save"/> says. The bytes are not trusted, but for their number.</summary>
    internal bool IsPossible(ReadOnlySpan<byte> image, VirtioFeatures features)
    {
        for (var i = 0; i < 2 + _queues.Length; i++)
        {
            var value = Coalescing.Read(image[(i * Coalescing.Bytes)..]);
            var isPossible = i < 2
                ? value == default || features.Has(VIRTIO_NET_F_NOTF_COAL)
                : i - 2 < QueuesOf(features)
                    ? value == Coalescing.Read(image[((i & 1) * Coalescing.Bytes)..]) || features.Has(VIRTIO_NET_F_VQ_NOTF_COAL)
                    : value == default;
            if (!isPossible)
                return false;
        }

        return true;
    }

    /// <summary>Takes over what <see cref="Save"/> says and a driver can have set.</summary>
    internal void Restore(ReadOnlySpan<byte> image)
    {
        lock (_lock)
        {
            for (var i = 0; i < 2 + _queues.Length; i++)
            {
                var value = Coalescing.Read(image[(i * Coalescing.Bytes)..]);
                if (i < 2)
                    _kinds[i] = value;
                else
                    SetLocked(i - 2, value);
            }
        }
    }

    private void SetLocked(int queue, Coalescing value)
    {
        _queues[queue] = value;
        device.Coalesce(queue, value);
    }
}
