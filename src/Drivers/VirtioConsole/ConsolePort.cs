using System.Buffers.Binary;
using Virtbus.Buses.Virtio;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Tty;

namespace Virtbus.Drivers.VirtioConsole;

/// <summary>The one port of a device: its two queues, and what it says of its size, as the operations of a line.</summary>
internal sealed class ConsolePort : ITtyOps, IDisposable
{
    internal const int VIRTIO_CONSOLE_F_SIZE = 0;

    // So often a device that sleeps is looked at.
    private static readonly TimeSpan Tick = TimeSpan.FromSeconds(5);

    private readonly VirtioBusDevice _device;
    private readonly DmaBuffer _memory;
    private readonly InputRing _input;
    private readonly OutputRing _output;
    private TtyDevice? _line;
    // Columns, and rows in the upper half.
    private uint _size;
    // While the device sleeps.
    private ITimer? _sleep;
    private int _isWakeDue;

    /// <summary>Allocates its buffers.</summary>
    /// <exception cref="VirtbusException">ENOMEM.</exception>
    internal ConsolePort(VirtioBusDevice device)
    {
        _device = device;
        _memory = device.Allocate(2 * ConsoleSlots.Bytes);
        _input = new InputRing(new ConsoleSlots(_memory, 0));
        _output = new OutputRing(new ConsoleSlots(_memory, ConsoleSlots.Bytes));
    }

    public (int Columns, int Rows) Size
    {
        get
        {
            var size = Volatile.Read(ref _size);
            return ((int)(size & ushort.MaxValue), (int)(size >> 16));
        }
    }

    /// <summary>Sets the line whose user is told, also of what came since he opened it.</summary>
    internal void SetLine(TtyDevice line)
    {
        Volatile.Write(ref _line, line);
        line.Wake();
    }

    /// <summary>Makes the queues, has the device run, gives it the buffers, and what it has not taken before a sleep.</summary>
    internal void Start()
    {
        var queues = _device.CreateQueues(new VirtioQueueSpec("input", OnInput, ConsoleSlots.Count), new VirtioQueueSpec("output", OnOutput, ConsoleSlots.Count));
        ReadSize();
        _device.Ready();
        _output.Attach(queues[1]);
        _input.Attach(queues[0]);
        EndSleep();
        Wake();
    }

    /// <summary>Resets the device and lets go of the queues; what has come can be read, and who waits goes on waiting.</summary>
    internal void Sleep()
    {
        EndSleep();
        Volatile.Write(ref _sleep, _device.Fabric!.Time.CreateTimer(static port => ((ConsolePort)port!).LookAtSleep(), this, Tick, Tick));
        // What it handed back until its last moment counts: else text would be lost, or sent twice.
        _device.Reset(() =>
        {
            _input.Detach();
            _output.Detach();
        });
        Wake();
    }

    /// <summary>Lets go of the queues for good; who waits is told.</summary>
    internal void Stop()
    {
        _input.Close();
        _output.Close();
        EndSleep();
        Wake();
    }

    /// <summary>Looks at the size, which the device may have changed.</summary>
    internal void Refresh()
    {
        ReadSize();
        Wake();
    }

    public int Read(Span<byte> destination, out Fault fault)
    {
        var count = _input.Read(destination, out fault);
        if (count == 0)
            fault = Explain(fault);
        return count;
    }

    public int Write(ReadOnlySpan<byte> source, out Fault fault)
    {
        var count = _output.Write(source, out fault);
        if (Interlocked.Exchange(ref _isWakeDue, 0) != 0)
            Wake();
        if (count < source.Length)
            fault = Explain(fault);
        return count;
    }

    public void Dispose()
    {
        Stop();
        _memory.Dispose();
    }

    private void OnInput(VirtioQueue queue)
    {
        _input.OnUsed(queue);
        Wake();
    }

    private void OnOutput(VirtioQueue queue)
    {
        _output.OnUsed(queue);
        Wake();
    }

    // A queue that breaks says so in the middle of a call: then when that is over, as nobody is told under a lock.
    private void Wake()
    {
        if (_input.IsHeld || _output.IsHeld)
            Volatile.Write(ref _isWakeDue, 1);
        else
            Volatile.Read(ref _line)?.Wake();
    }

    private Fault Explain(Fault fault)
    {
        if (fault.Errno == Errno.EIO && _device.IsGone)
            return new Fault(Errno.ENODEV, "the device is gone");
        return fault == Fault.None && HasFailed ? new Fault(Errno.EIO, "the device did not come back from its sleep") : fault;
    }

    // One that did not come back from its sleep, which nobody tells its driver: who waits for that waits in vain.
    private bool HasFailed => Volatile.Read(ref _sleep) is not null && _device.HasFailed;

    private void LookAtSleep()
    {
        if (HasFailed)
            Wake();
    }

    private void EndSleep() => Interlocked.Exchange(ref _sleep, null)?.Dispose();

    private void ReadSize()
    {
        Span<byte> size = stackalloc byte[4];
        // What can't be read is as before.
        if (_device.Has(VIRTIO_CONSOLE_F_SIZE) && _device.TryReadConfig(0, size, out _))
            Volatile.Write(ref _size, BinaryPrimitives.ReadUInt32LittleEndian(size));
    }
}
