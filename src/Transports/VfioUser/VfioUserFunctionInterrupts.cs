using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Transports.VfioUser;

/// <summary>
/// A served function's interrupts: its server signals eventfds, one thread takes them up and sends messages or raises the line. Masks, messages
/// and pending bits are kept here. Changed under the function's lock.
/// </summary>
internal sealed class VfioUserFunctionInterrupts : IDisposable
{
    private const uint LineIndex = 0;
    private const uint MsiIndex = 1;
    private const uint MsixIndex = 2;
    private const uint RequestIndex = 4;
    private const ulong WakeToken = ulong.MaxValue;
    private const ulong DoorbellToken = 1UL << 32;

    private readonly VfioUserClient _client;
    private readonly VfioUserFunctionGate _gate;
    private readonly Action _requested;
    private readonly Epoll _epoll = new();
    private readonly EventFd _wake = new();
    private readonly ManualResetEventSlim _ended = new(initialState: false);
    private readonly Dictionary<ulong, EventFd> _signals = [];
    private readonly Dictionary<ulong, (EventFd From, EventFd To)> _doorbells = [];
    private readonly Lock _signalsLock = new();
    private readonly RemoteLine _line;
    private readonly bool _hasLine;
    private readonly uint _msiCount;
    private readonly uint _msixCount;
    private PciInterruptMode? _mode;
    private volatile bool _isByLine;
    private volatile bool _stopping;

    /// <param name="client">The connection.</param>
    /// <param name="gate">The way to the slot's port.</param>
    /// <param name="config">What the function is made of.</param>
    /// <exception cref="VirtbusException">The host has no descriptor or no thread left.</exception>
    /// <param name="requested">Called on a thread of this object when the server wants its function back; it must not block.</param>
    internal VfioUserFunctionInterrupts(VfioUserClient client, VfioUserFunctionGate gate, VfioUserFunctionConfig config, Action requested)
    {
        _client = client;
        _gate = gate;
        _requested = requested;
        _line = new RemoteLine(
            SetLine,
            () => client.TrySetIrqs(
                new VfioIrqSet { Flags = VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionUnmask, Index = LineIndex, Start = 0, Count = 1 }, out _));
        _hasLine = config.HasPin && Count(LineIndex) > 0;
        _msiCount = config.Msi == 0 ? 0 : Math.Min(Count(MsiIndex), (uint)config.MsiVectors);
        _msixCount = config.Msix == 0 ? 0 : Math.Min(Count(MsixIndex), (uint)config.MsixVectors);
        if (config.Msix != 0)
            Msix = new MsixTable(config.MsixVectors, Send);
        if (config.Msi != 0)
            Msi = new MsiState(config.MsiVectors, config.HasMsiMasks, Send, config.HasMsiMasks ? config.SetMsiPending : null);
        try
        {
            _epoll.Add(_wake.Descriptor, WakeToken, edge: true);
            if (Count(RequestIndex) > 0)
                Listen(RequestIndex, 1);
            ServiceThread.Start("vfio-user function", Run, 256 << 10);
        }
        catch
        {
            _ended.Set();
            Dispose();
            throw;
        }
    }

    internal MsixTable? Msix { get; }

    internal MsiState? Msi { get; }

    /// <summary>Has the server signal what the registers ask for: MSI-X, MSI, or the line; nothing without a slot.</summary>
    internal void SetMode(PciInterruptMode? mode)
    {
        if (_mode == mode)
            return;
        var old = _mode;
        _mode = mode;
        _isByLine = mode == PciInterruptMode.Line;
        // One kind at a time: a device need not have more.
        if (old is { } before && CountOf(before) > 0)
            _client.TrySetIrqs(new VfioIrqSet { Flags = VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionTrigger, Index = IndexOf(before), Start = 0, Count = 0 }, out _);
        if (old == PciInterruptMode.Line)
            _line.Lower();
        if (mode is { } now && CountOf(now) > 0)
            Listen(IndexOf(now), CountOf(now));
    }

    /// <summary>Somebody looked at the device: what the line said is dealt with.</summary>
    internal void Accessed() => _line.Accessed();

    /// <summary>Lets signals of one eventfd be signals of another.</summary>
    internal void Connect(int doorbell, EventFd? from, EventFd to)
    {
        var token = DoorbellToken | (uint)doorbell;
        lock (_signalsLock)
        {
            if (_doorbells.Remove(token, out var old))
            {
                _epoll.Remove(old.From.Descriptor);
                old.From.Dispose();
            }

            if (from is null)
                return;
            var copy = from.Duplicate();
            _doorbells.Add(token, (copy, to));
            _epoll.Add(copy.Descriptor, token, edge: true);
        }
    }

    public void Dispose()
    {
        _stopping = true;
        _wake.Signal();
        _ended.Wait();
        _ended.Dispose();
        _epoll.Dispose();
        _wake.Dispose();
        foreach (var signal in _signals.Values)
            signal.Dispose();
        foreach (var (from, _) in _doorbells.Values)
            from.Dispose();
    }

    private static uint IndexOf(PciInterruptMode mode) => mode switch
    {
        PciInterruptMode.MsiX => MsixIndex,
        PciInterruptMode.Msi => MsiIndex,
        _ => LineIndex,
    };

    private uint CountOf(PciInterruptMode mode) => mode switch
    {
        PciInterruptMode.MsiX => _msixCount,
        PciInterruptMode.Msi => _msiCount,
        _ => _hasLine ? 1u : 0,
    };

    private uint Count(uint index) => _client.TryGetIrqInfo(index, out var info, out _) ? info.Count : 0;

    private void Listen(uint index, uint count)
    {
        var signals = new EventFd?[count];
        for (var i = 0u; i < signals.Length; i++)
            signals[i] = SignalOf(index, i);
        _client.TrySetIrqs(
            new VfioIrqSet { Flags = VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionTrigger, Index = index, Start = 0, Count = count, EventFds = signals },
            out _);
    }

    private EventFd SignalOf(uint index, uint vector)
    {
        var token = (ulong)index << 16 | vector;
        lock (_signalsLock)
        {
            if (_signals.TryGetValue(token, out var signal))
                return signal;
            signal = new EventFd();
            _signals.Add(token, signal);
            // Each signal is told once, so that nothing has to be read.
            _epoll.Add(signal.Descriptor, token, edge: true);
            return signal;
        }
    }

    private void Send(ulong address, uint data)
    {
        if (!_gate.TryEnter(out var port))
            return;
        port.SendMessage(address, data);
        _gate.Leave();
    }

    private void SetLine(bool asserted)
    {
        if (!_gate.TryEnter(out var port))
            return;
        port.SetInterruptLine(asserted);
        _gate.Leave();
    }

    private void Run()
    {
        Span<ulong> tokens = stackalloc ulong[8];
        try
        {
            while (!_stopping)
            {
                var count = _epoll.Wait(tokens, Timeout.Infinite);
                foreach (var token in tokens[..count])
                    Take(token);
            }
        }
        finally
        {
            _ended.Set();
        }
    }

    private void Take(ulong token)
    {
        if (token == WakeToken)
            return;
        if ((token & DoorbellToken) != 0)
        {
            lock (_signalsLock)
            {
                if (_doorbells.TryGetValue(token, out var pair))
                    pair.To.Signal();
            }

            return;
        }

        var vector = (int)(token & 0xffff);
        switch ((uint)(token >> 16))
        {
            case MsixIndex:
                Msix!.Raise(vector);
                break;
            case MsiIndex:
                Msi!.Raise(vector);
                break;
            case RequestIndex:
                _requested();
                break;
            default:
                // A signal that came before another mode was set is nobody's any more.
                if (!_isByLine)
                    break;
                _line.Raise();
                break;
        }
    }
}
