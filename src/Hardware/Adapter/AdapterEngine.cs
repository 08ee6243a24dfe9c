using System.Collections.Concurrent;
using System.Diagnostics;
using Virtbus.Hardware.Block;
using Virtbus.Hardware.VirtioBlk;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// What every make of adapter has inside: the thread that does the work of all its functions, the switch between their queue sets, the wire
/// to the outside, and the media for block functions. The thread starts with the first work and sleeps when there is none.
/// </summary>
public sealed class AdapterEngine : IDisposable
{
    private const int WorkPerTurn = 64;
    private const int WireDepth = 256;
    private readonly Lock _lock = new();
    private readonly ConcurrentDictionary<string, IBlockBackend> _media = new();
    private readonly AdapterSwitch _switch = new();
    private readonly ConcurrentQueue<AdapterWork> _work = new();
    private readonly List<SwitchPort> _touched = [];
    private readonly ConcurrentDictionary<ulong, AdapterWork> _signals = new();
    private readonly Epoll _epoll = new();
    private readonly EventFd _wake = new();
    private readonly List<FunctionUnit> _functions = [];
    private SwitchPort[] _ports = [];
    private ulong _lastSignal;
    private Thread? _thread;
    private int _awake;
    private volatile bool _portsLeft;
    private volatile bool _linkUp = true;
    private volatile bool _stop;

    /// <summary>Makes the inside of an adapter.</summary>
    /// <param name="name">The adapter's name, for thread names and errors.</param>
    /// <param name="macAddress">The first address, 48 bits; parts count up from it.</param>
    /// <param name="networkParts">How many network parts its physical function is capable of.</param>
    /// <param name="vdpaParts">How many vDPA parts each function is capable of.</param>
    public AdapterEngine(string name, ulong macAddress, int networkParts, int vdpaParts)
    {
        Name = name;
        MacAddress = macAddress;
        NetworkParts = networkParts;
        VdpaParts = vdpaParts;
        _epoll.Add(_wake.Descriptor, 0UL, edge: true);
    }

    /// <summary>The adapter's name.</summary>
    public string Name { get; }

    /// <summary>The adapter's first address.</summary>
    public ulong MacAddress { get; }

    /// <summary>How many network parts the physical function is capable of; a virtual one has at most one.</summary>
    public int NetworkParts { get; }

    /// <summary>How many vDPA parts each function is capable of.</summary>
    public int VdpaParts { get; }

    /// <summary>How many queue sets the functions have at this moment.</summary>
    public int QueueSetCount => Volatile.Read(ref _ports).Count(p => p is QueueSet);

    /// <summary>Whether the link carries.</summary>
    public bool IsLinkUp => _linkUp;

    internal byte[] Scratch { get; } = new byte[FunctionUnit.MaxCopy];

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

    /// <summary>Plugs a wire in: one more port of the switch.</summary>
    /// <param name="send">Takes a frame to the outside, on the adapter's thread; it must not block. The frame is valid during the call only.</param>
    public AdapterWire ConnectWire(Action<ReadOnlySpan<byte>> send)
    {
        ArgumentNullException.ThrowIfNull(send);
        return new AdapterWire(this, WireDepth, send);
    }

    /// <summary>Stops the adapter's thread. Its functions must be out of their slots.</summary>
    public void Dispose()
    {
        Thread? thread;
        lock (_lock)
        {
            if (_stop)
                return;
            _stop = true;
            thread = _thread;
        }
        _wake.Signal();
        thread?.Join();
        _epoll.Dispose();
        _wake.Dispose();
    }

    /// <summary>Makes a virtio block device on a medium; ENOENT when there is no such medium.</summary>
    internal Errno CreateBlockFunction(in VirtioBlockParameters parameters, out VirtioBlkDevice? device)
    {
        device = null;
        if (!_media.TryGetValue(parameters.Medium, out var medium))
            return Errno.ENOENT;
        try
        {
            device = new VirtioBlkDevice(parameters.Name, medium, parameters.Serial, parameters.Queues);
            return Errno.None;
        }
        catch (VirtbusException e)
        {
            // The host has no descriptor left.
            return e.Errno;
        }
    }

    internal void SetLink(bool up)
    {
        _linkUp = up;
        FunctionUnit[] functions;
        lock (_lock)
            functions = [.. _functions];
        foreach (var function in functions)
            function.TellLink();
    }

    internal void Add(FunctionUnit function)
    {
        lock (_lock)
            _functions.Add(function);
    }

    internal void Remove(FunctionUnit function)
    {
        lock (_lock)
            _functions.Remove(function);
    }

    internal void Join(SwitchPort port)
    {
        lock (_lock)
            Volatile.Write(ref _ports, [.. _ports, port]);
    }

    internal void Leave(SwitchPort port)
    {
        lock (_lock)
        {
            port.IsGone = true;
            Volatile.Write(ref _ports, [.. _ports.Where(p => p != port)]);
        }
        _portsLeft = true;
    }

    /// <summary>Asks for a turn of a piece of work. Any thread.</summary>
    internal void Schedule(AdapterWork work)
    {
        if (!work.TrySchedule())
            return;
        _work.Enqueue(work);
        // The eventfd is a system call away; a thread that is awake already needs none.
        if (Interlocked.Exchange(ref _awake, 1) != 0)
            return;
        if (Volatile.Read(ref _thread) is null)
            Start();
        _wake.Signal();
    }

    /// <summary>Lets signals of an eventfd ask for turns of a piece of work.</summary>
    /// <param name="signal">The eventfd; stays the caller's, and open until <see cref="Unlisten"/>.</param>
    /// <param name="work">The work.</param>
    /// <returns>A number for <see cref="Unlisten"/>.</returns>
    internal ulong Listen(EventFd signal, AdapterWork work)
    {
        var id = Interlocked.Increment(ref _lastSignal);
        _signals[id] = work;
        _epoll.Add(signal.Descriptor, id, edge: true);
        if (Volatile.Read(ref _thread) is null)
            Start();
        return id;
    }

    internal void Unlisten(EventFd signal, ulong id)
    {
        _epoll.Remove(signal.Descriptor);
        _signals.TryRemove(id, out _);
    }

    // The rest is for the adapter's thread.
    internal void Forward(SwitchPort from, ReadOnlySpan<byte> frame) => _switch.Forward(from, Volatile.Read(ref _ports), frame);

    /// <summary>Has a port's <see cref="SwitchPort.Flush"/> called at the end of the round.</summary>
    internal void Touch(SwitchPort port)
    {
        if (port.IsTouched)
            return;
        port.IsTouched = true;
        _touched.Add(port);
    }

    private void Start()
    {
        lock (_lock)
        {
            if (_thread is not null || _stop)
                return;
            _thread = new Thread(Run) { IsBackground = true, Name = "adapter " + Name };
            _thread.Start();
        }
    }

    private void Run()
    {
        while (!_stop)
        {
            // Signals come in while there is other work too.
            if (!_signals.IsEmpty)
                Poll(0);
            if (Round())
                continue;
            Interlocked.Exchange(ref _awake, 0);
            // Looked at after the mark: work that comes later finds the mark and signals.
            if (_work.IsEmpty && !_stop)
                Poll(-1);
            Interlocked.Exchange(ref _awake, 1);
        }
    }

    private void Poll(int milliseconds)
    {
        Span<ulong> ready = stackalloc ulong[32];
        var count = _epoll.Wait(ready, milliseconds);
        foreach (var id in ready[..count])
        {
            if (_signals.TryGetValue(id, out var work) && work.TrySchedule())
                _work.Enqueue(work);
        }
    }

    private bool Round()
    {
        var done = 0;
        for (; done < WorkPerTurn && _work.TryDequeue(out var work); done++)
        {
            work.BeginTurn();
            try
            {
                if (work.Run() && work.TrySchedule())
                    _work.Enqueue(work);
            }
            catch (Exception exception)
            {
                Break(work, exception);
            }
        }
        // By index: an interrupt's handler may make another port's turn end here.
        for (var i = 0; i < _touched.Count; i++)
        {
            _touched[i].IsTouched = false;
            try
            {
                _touched[i].Flush();
            }
            catch (Exception exception)
            {
                Break(_touched[i], exception);
            }
        }
        _touched.Clear();
        if (_portsLeft)
        {
            _portsLeft = false;
            _switch.Sweep();
        }
        return done > 0;
    }

    // A bug of this program: the function fails, the adapter lives.
    private static void Break(AdapterWork work, Exception exception)
    {
        Debug.Fail(exception.ToString());
        work.Break();
    }
}
