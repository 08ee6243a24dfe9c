using System.Diagnostics;
using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Block;

/// <summary>
/// A user's way into a disk: counts, and stands between the user and a driver that goes. Requests in work are together a stay in the gate, so the
/// driver's side is reached only while the gate holds somebody. One thread, but for <see cref="Shut"/> and <see cref="End"/>.
/// </summary>
internal sealed class BlockDeviceChannel : IBlockChannel
{
    private readonly BlockDevice _device;
    private readonly IBlockChannel _inner;
    private readonly UseGate _gate = new();
    // In work, in no order.
    private readonly BlockRequest[] _requests;
    private readonly long[] _since;
    private int _count;
    // Where the one is looked for that comes back next.
    private int _next;
    private long _now;
    private int _isInnerDisposed;
    private volatile bool _isCut;

    /// <exception cref="VirtbusException">ENODEV: the disk is gone; what the driver's side answers.</exception>
    internal BlockDeviceChannel(BlockDevice device, int depth, bool ownsThread)
    {
        _device = device;
        _requests = new BlockRequest[depth];
        _since = new long[depth];
        if (device.HasEnded)
            throw new VirtbusException(Errno.ENODEV, $"Disk '{device.Name}' is gone.");
        _inner = device.Backend.OpenChannel(depth, ownsThread);
        try
        {
            device.Add(this);
        }
        catch
        {
            _inner.Dispose();
            throw;
        }
    }

    public int Depth => _inner.Depth;

    public FileDescriptor? Completion => _inner.Completion;

    public BlockWays Ways => _inner.Ways;

    internal BlockStatistics Statistics { get; } = new();

    public bool Submit(BlockRequest request)
    {
        if (_count == _requests.Length)
        {
            // More than the depth that was asked for.
            request.Result = Errno.EBUSY;
            return true;
        }

        // Where some are in work it is inside already, and whoever shuts the gate waits for this one too.
        if (_count == 0 ? !_gate.TryEnter() : _gate.IsClosed)
        {
            request.Result = Errno.ENODEV;
            return true;
        }

        if (Refusal(request) is var error && error != Errno.None)
        {
            if (_count == 0)
                _gate.Leave();
            request.Result = error;
            return true;
        }

        var now = Now();
        _device.CountBusy(MillisecondsOf(now), isEnd: false);
        Statistics.Begin(request);
        _requests[_count] = request;
        _since[_count++] = now;
        if (!_inner.Submit(request))
            return false;
        // It may have taken its time.
        _now = 0;
        Finish(_count - 1);
        return true;
    }

    public void Commit()
    {
        _now = 0;
        if (_count > 0 && !_isCut)
            _inner.Commit();
    }

    public BlockRequest? TryReap()
    {
        if (_count == 0)
            return null;
        if (_isCut)
            return ReapCut();
        if (_inner.TryReap() is not { } request)
        {
            _now = 0;
            return null;
        }

        // Mostly they come back as they went.
        var place = _next;
        do
            place = place < _count ? place : 0;
        while (!ReferenceEquals(_requests[place++], request));
        _next = place;
        Finish(place - 1);
        return request;
    }

    public void Wait(int milliseconds)
    {
        _now = 0;
        // What is cut is told by the same signal.
        if (_count > 0 && !_isCut)
            _inner.Wait(milliseconds);
    }

    public void Dispose()
    {
        DisposeInner();
        while (_count > 0)
            Finish(_count - 1);
        _device.Remove(this);
    }

    /// <summary>Lets no request in any more.</summary>
    internal void Shut() => _gate.Shut();

    /// <summary>Waits until what is in work has ended, and gives up what does not; the driver's side is reached no more.</summary>
    /// <param name="most">How long to wait for the driver, and once more for the user.</param>
    internal void End(TimeSpan most)
    {
        if (!_gate.TryWait((int)most.TotalMilliseconds))
        {
            _isCut = true;
            Wake();
            // The user's thread closes the driver's channel, which it may be in. A user who never comes back holds nothing but that channel.
            if (!_gate.TryWait((int)most.TotalMilliseconds))
                return;
        }

        DisposeInner();
    }

    private static long MillisecondsOf(long timestamp) => timestamp / (Stopwatch.Frequency / 1000);

    // The user looked at the disk some time ago, and it may have become another one.
    private Errno Refusal(BlockRequest request)
    {
        if (request.Operation is BlockOperation.Flush or BlockOperation.GetId)
            return Errno.None;
        var info = _device.Info;
        if (info.IsReadOnly && request.Operation != BlockOperation.Read)
            return Errno.EROFS;
        return info.Holds(request.Offset, request.Length) ? Errno.None : Errno.EIO;
    }

    private void Wake()
    {
        try
        {
            if (_inner.Completion is { } completion)
                EventFd.Wake(completion);
        }
        catch (ObjectDisposedException)
        {
            // The user has closed the channel meanwhile.
        }
    }

    private BlockRequest ReapCut()
    {
        // Nothing touches the memory of a request afterwards.
        DisposeInner();
        var request = _requests[_count - 1];
        request.Result = Errno.ENODEV;
        Finish(_count - 1);
        return request;
    }

    // The clock costs as much as all else here: it is read once for the requests that come and end between two that are waited for.
    private long Now() => _now != 0 ? _now : _now = Stopwatch.GetTimestamp();

    private void Finish(int place)
    {
        var now = Now();
        _device.CountBusy(MillisecondsOf(now), isEnd: true);
        Statistics.End(_requests[place], now - _since[place]);
        _count--;
        _requests[place] = _requests[_count];
        _since[place] = _since[_count];
        _requests[_count] = null!;
        if (_count == 0)
            _gate.Leave();
    }

    private void DisposeInner()
    {
        if (Interlocked.Exchange(ref _isInnerDisposed, 1) == 0)
            _inner.Dispose();
    }
}
