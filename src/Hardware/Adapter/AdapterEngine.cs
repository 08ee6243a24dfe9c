using System.Collections.Concurrent;
using Virtbus.Hardware.Block;
using Virtbus.Hardware.VirtioBlk;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// What every make of adapter has inside: queue sets, the switch between them, a wire to the outside, and virtio block functions on the
/// media that were put in. One thread moves the frames; it runs only while there are queue sets.
/// </summary>
public sealed class AdapterEngine : IDisposable
{
    private const int MaxQueueSets = 256;
    private const int BatchPerPort = 64;
    private readonly Lock _lock = new();
    private readonly ConcurrentDictionary<string, IBlockBackend> _media = new();
    private readonly AdapterSwitch _switch = new();
    private readonly AutoResetEvent _doorbell = new(false);
    private readonly ConcurrentQueue<(QueueSet Set, ManualResetEventSlim Gone)> _retired = new();
    private QueueSet[] _sets = [];
    private uint _nextId;
    private Thread? _thread;
    private int _awake;
    private volatile bool _stop;

    /// <summary>Makes the inside of an adapter.</summary>
    /// <param name="name">The adapter's name, for thread names and errors.</param>
    /// <param name="macAddress">The first address, 48 bits; parts count up from it.</param>
    /// <param name="networkParts">How many network parts it is capable of.</param>
    /// <param name="vdpaParts">How many vDPA parts it is capable of.</param>
    public AdapterEngine(string name, ulong macAddress, int networkParts, int vdpaParts)
    {
        Name = name;
        MacAddress = macAddress;
        NetworkParts = networkParts;
        VdpaParts = vdpaParts;
    }

    /// <summary>The adapter's name.</summary>
    public string Name { get; }

    /// <summary>The adapter's first address.</summary>
    public ulong MacAddress { get; }

    /// <summary>How many network parts the adapter is capable of.</summary>
    public int NetworkParts { get; }

    /// <summary>How many vDPA parts the adapter is capable of.</summary>
    public int VdpaParts { get; }

    /// <summary>How many queue sets are allocated.</summary>
    public int QueueSetCount => Volatile.Read(ref _sets).Length;

    /// <summary>Puts a medium in, for a block function to use. It stays its owner's.</summary>
    /// <param name="name">The medium's name.</param>
    /// <param name="medium">The back end.</param>
    /// <exception cref="VirtbusException">EEXIST: a medium of that name is in.</exception>
    public void AttachMedium(string name, IBlockBackend medium)
    {
        if (!_media.TryAdd(name, medium))
            throw new VirtbusException(Errno.EEXIST, $"Adapter {Name} has a medium '{name}' already. Take that one out first.");
    }

    /// <summary>Takes a medium out. Functions that use it must be gone.</summary>
    /// <param name="name">The medium's name.</param>
    public void DetachMedium(string name) => _media.TryRemove(name, out _);

    /// <summary>Allocates a queue set and joins it to the switch.</summary>
    /// <param name="depth">Frames per queue: a power of two, 2 to 32,768.</param>
    /// <param name="set">The queue set.</param>
    /// <param name="fault">EINVAL: the depth; ENOSPC: all are out.</param>
    public bool TryAllocate(int depth, out QueueSet? set, out Fault fault)
    {
        set = null;
        if (depth is < 2 or > 32768 || !int.IsPow2(depth))
        {
            fault = new Fault(Errno.EINVAL, "the depth of a queue set is a power of two from 2 to 32768");
            return false;
        }
        lock (_lock)
        {
            if (_sets.Length == MaxQueueSets)
            {
                fault = new Fault(Errno.ENOSPC, "all queue sets of the adapter are allocated");
                return false;
            }
            set = new QueueSet(this, _nextId++, depth);
            Volatile.Write(ref _sets, [.. _sets, set]);
            if (_thread is null && !_stop)
            {
                _thread = new Thread(Run) { IsBackground = true, Name = "switch " + Name };
                _thread.Start();
            }
        }
        fault = Fault.None;
        return true;
    }

    /// <summary>Finds a queue set.</summary>
    /// <param name="id">Its number.</param>
    /// <param name="set">The queue set.</param>
    public bool TryGet(uint id, out QueueSet? set)
    {
        set = Array.Find(Volatile.Read(ref _sets), s => s.Id == id);
        return set is not null;
    }

    /// <summary>Frees a queue set. When it returns, no interrupt of it is raised any more. Not to be called from an interrupt.</summary>
    /// <param name="id">Its number.</param>
    /// <param name="fault">ENOENT: no such queue set.</param>
    public bool TryFree(uint id, out Fault fault)
    {
        using var gone = new ManualResetEventSlim();
        bool running;
        lock (_lock)
        {
            if (!TryGet(id, out var set))
            {
                fault = new Fault(Errno.ENOENT, "the queue set is not allocated");
                return false;
            }
            set!.SetInterrupt(null);
            Volatile.Write(ref _sets, [.. _sets.Where(s => s != set)]);
            running = _thread is not null && !_stop;
            if (running)
                _retired.Enqueue((set, gone));
        }
        Wake();
        if (running)
            gone.Wait();
        fault = Fault.None;
        return true;
    }

    /// <summary>Makes a virtio block function on a medium.</summary>
    /// <param name="name">The function's name.</param>
    /// <param name="medium">The medium's name.</param>
    /// <param name="serial">What it answers to GET_ID; at most 20 characters.</param>
    /// <param name="queues">Request queues, 1 to 256.</param>
    /// <exception cref="VirtbusException">ENOENT: no such medium is in; EINVAL: serial or queues.</exception>
    public VirtioBlkDevice CreateBlockFunction(string name, string medium, string serial, int queues) =>
        _media.TryGetValue(medium, out var backend)
            ? new VirtioBlkDevice(name, backend, serial, queues)
            : throw new VirtbusException(Errno.ENOENT, $"Adapter {Name} has no medium '{medium}'. Put a file or memory in under that name first.");

    /// <summary>Stops the adapter's thread.</summary>
    public void Dispose()
    {
        Thread? thread;
        lock (_lock)
        {
            _stop = true;
            thread = _thread;
        }
        _doorbell.Set();
        thread?.Join();
        _doorbell.Dispose();
    }

    internal void Wake()
    {
        // The event is a system call away; a thread that is awake already needs none.
        if (Interlocked.Exchange(ref _awake, 1) == 0)
            _doorbell.Set();
    }

    private void Run()
    {
        while (!_stop)
        {
            _doorbell.WaitOne();
            while (!_stop)
            {
                // Cleared before the look, so a doorbell during it is not lost.
                Interlocked.Exchange(ref _awake, 0);
                if (!MoveFrames())
                    break;
            }
        }
        RetireFreed();
    }

    private void RetireFreed()
    {
        while (_retired.TryDequeue(out var freed))
        {
            _switch.Forget(freed.Set);
            freed.Gone.Set();
        }
    }

    private bool MoveFrames()
    {
        RetireFreed();
        var ports = Volatile.Read(ref _sets);
        var moved = false;
        foreach (var port in ports)
        {
            for (var i = 0; i < BatchPerPort && port.Transmit.TryPeek(out var frame); i++)
            {
                _switch.Forward(port, ports, frame);
                port.Transmit.Release();
                moved = true;
            }
        }
        foreach (var port in ports)
            port.RaiseIfPending();
        return moved;
    }
}
