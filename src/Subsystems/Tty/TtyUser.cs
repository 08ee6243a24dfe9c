using System.Diagnostics;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Tty;

/// <summary>A line as one user has it open. Any thread; no call allocates.</summary>
public sealed class TtyUser : IDisposable
{
    // A wait of the runtime takes no more.
    private static readonly TimeSpan Longest = TimeSpan.FromMilliseconds(int.MaxValue);

    private readonly TtyDevice _device;
    private readonly Action? _changed;
    private readonly object _changes = new();
    private int _version;

    internal TtyUser(TtyDevice device, string name, Action? changed)
    {
        _device = device;
        _changed = changed;
        Name = name;
    }

    /// <summary>Who has it open.</summary>
    public string Name { get; }

    /// <summary>Reads bytes as they come.</summary>
    /// <param name="destination">Where to.</param>
    /// <param name="wait">
    /// How long the first one is waited for; zero for what is there, <see cref="Timeout.InfiniteTimeSpan"/> until there is one or never will be.
    /// </param>
    /// <param name="fault">
    /// With 0 bytes: EAGAIN: none came in time; EIO: the device failed, and its driver has to be bound anew; ENODEV: the line has hung up; EBADF: it was
    /// closed.
    /// </param>
    /// <returns>How many.</returns>
    public int Read(Span<byte> destination, TimeSpan wait, out Fault fault)
    {
        fault = Fault.None;
        if (destination.IsEmpty)
            return 0;
        var start = Stopwatch.GetTimestamp();
        while (true)
        {
            var version = Volatile.Read(ref _version);
            var count = _device.Read(this, destination, out fault);
            if (count > 0 || fault != Fault.None)
                return count;
            if (TryWait(version, wait, start))
                continue;
            fault = new Fault(Errno.EAGAIN, "nothing came in time");
            return 0;
        }
    }

    /// <summary>Writes bytes. They are on their way when it returns; that they came the other end does not say.</summary>
    /// <param name="source">The bytes.</param>
    /// <param name="wait">How long there is waited for room altogether; as for <see cref="Read"/>.</param>
    /// <param name="fault">With fewer bytes than all: EAGAIN: there was no room in time; EIO, ENODEV and EBADF as for <see cref="Read"/>.</param>
    /// <returns>How many were taken, from the first on.</returns>
    public int Write(ReadOnlySpan<byte> source, TimeSpan wait, out Fault fault)
    {
        fault = Fault.None;
        var start = Stopwatch.GetTimestamp();
        var done = 0;
        while (done < source.Length)
        {
            var version = Volatile.Read(ref _version);
            done += _device.Write(this, source[done..], out fault);
            if (done == source.Length || fault != Fault.None)
                break;
            if (TryWait(version, wait, start))
                continue;
            fault = new Fault(Errno.EAGAIN, "there was no room in time");
            break;
        }

        return done;
    }

    /// <summary>Closes the line. Who waits at it is told; what came and was not read is for nobody.</summary>
    public void Dispose()
    {
        _device.Close(this);
        WakeAll();
    }

    internal void Tell()
    {
        WakeAll();
        _changed?.Invoke();
    }

    private void WakeAll()
    {
        lock (_changes)
        {
            _version++;
            Monitor.PulseAll(_changes);
        }
    }

    // True when it is to be tried again.
    private bool TryWait(int version, TimeSpan wait, long start)
    {
        // However often the driver tells of changes.
        var left = wait == Timeout.InfiniteTimeSpan ? Longest : wait - Stopwatch.GetElapsedTime(start);
        if (left <= TimeSpan.Zero)
            return false;
        lock (_changes)
        {
            if (_version == version)
                Monitor.Wait(_changes, left < Longest ? left : Longest);
            return true;
        }
    }
}
