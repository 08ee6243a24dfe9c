using Microsoft.Extensions.Logging;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Remote.Pci;

/// <summary>
/// The interrupts of a function that is elsewhere: VFIO gives them as eventfds; here they become messages to the addresses that the system wrote, or
/// the line. Masks, messages and pending bits are kept here. Changed under the function's
/// lock, and sent without it.
/// </summary>
internal sealed class RemoteInterrupts : IDisposable
{
    private const uint LineIndex = 0;
    private const uint MsiIndex = 1;
    private const uint MsixIndex = 2;
    private const uint RequestIndex = 4;
    private const ulong DoorbellToken = 1UL << 32;

    private readonly IRemoteLink _link;
    private readonly RemoteSlot _slot;
    private readonly ILogger _log;
    private readonly Action _requested;
    private readonly RemoteSignals _interrupts;
    private readonly RemoteSignals _notices;
    private readonly Dictionary<ulong, EventFd> _signals = [];
    private readonly Dictionary<ulong, (EventFd From, EventFd To)> _doorbells = [];
    private readonly Lock _signalsLock = new();
    private readonly RemoteLine _line;
    private readonly bool _hasLine;
    private readonly uint _msiCount;
    private readonly uint _msixCount;
    private PciInterruptMode? _mode;
    private volatile bool _isByLine;

    /// <summary>Finds out what there is, and listens to the other end's request for its function.</summary>
    /// <param name="link">The way to the function.</param>
    /// <param name="slot">The way to the slot's port.</param>
    /// <param name="config">What the function is made of.</param>
    /// <param name="log">Where it logs.</param>
    /// <param name="requested">Called on a poll thread when the other end wants its function back; it must not block.</param>
    /// <exception cref="VirtbusException">The host has no descriptor or no thread left.</exception>
    internal RemoteInterrupts(IRemoteLink link, RemoteSlot slot, RemoteConfig config, ILogger log, Action requested)
    {
        _link = link;
        _slot = slot;
        _log = log;
        _requested = requested;
        _line = new RemoteLine(SetLine, Unmask);
        _hasLine = config.HasPin && link.GetVectors(LineIndex) > 0;
        _msiCount = config.Msi == 0 ? 0 : Math.Min(link.GetVectors(MsiIndex), (uint)config.MsiVectors);
        _msixCount = config.Msix == 0 ? 0 : Math.Min(link.GetVectors(MsixIndex), (uint)config.MsixVectors);
        if (config.Msix != 0)
            Msix = new MsixTable(config.MsixVectors, Send);
        if (config.Msi != 0)
            Msi = new MsiState(config.MsiVectors, config.HasMsiMasks, Send, config.HasMsiMasks ? config.SetMsiPending : null);
        // A handler looks at the function's registers, and the line is unmasked by a call: where a peer answers those, a thread of its own waits for it.
        // The peer may be a queue of this process, which must not stand behind that on a poll thread.
        _interrupts = new RemoteSignals(link.Name + " interrupts", link.IsPeer, Take);
        try
        {
            // Doorbells and the request for the function wait for nobody.
            _notices = new RemoteSignals(link.Name + " notices", mayWait: false, TakeNotice);
            if (link.GetVectors(RequestIndex) > 0)
                Listen(RequestIndex, 1);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    internal MsixTable? Msix { get; }

    internal MsiState? Msi { get; }

    /// <summary>Has the function signal what the registers ask for: MSI-X, MSI, or the line; nothing without a slot.</summary>
    internal void SetMode(PciInterruptMode? mode)
    {
        if (_mode == mode)
            return;
        var old = _mode;
        _mode = mode;
        _isByLine = mode == PciInterruptMode.Line;
        // One kind at a time: a device need not have more.
        if (old is { } before && CountOf(before) > 0)
            _link.TrySetIrqs(Ask(VfioIrqSetFlags.ActionTrigger, IndexOf(before), 0), out _);
        if (old == PciInterruptMode.Line)
            _line.Lower();
        if (mode is { } now && CountOf(now) > 0)
            Listen(IndexOf(now), CountOf(now));
    }

    /// <summary>Sends what became due when the registers were loaded. Without the function's lock: a handler of this process runs in it.</summary>
    internal void Flush()
    {
        Msi?.Flush();
        Msix?.Flush();
    }

    /// <summary>Somebody looked at the function: what the line said is dealt with.</summary>
    internal void Accessed() => _line.Accessed();

    /// <summary>Lets signals of one eventfd be signals of another.</summary>
    internal void Connect(int doorbell, EventFd? from, EventFd to)
    {
        var token = DoorbellToken | (uint)doorbell;
        lock (_signalsLock)
        {
            if (_doorbells.Remove(token, out var old))
            {
                _notices.Remove(old.From);
                old.From.Dispose();
            }

            if (from is null)
                return;
            var copy = from.Duplicate();
            _doorbells.Add(token, (copy, to));
            _notices.Add(copy, token);
        }
    }

    public void Dispose()
    {
        _interrupts.Dispose();
        _notices?.Dispose();
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

    private static VfioIrqSet Ask(VfioIrqSetFlags action, uint index, uint count) =>
        new() { Flags = VfioIrqSetFlags.DataNone | action, Index = index, Start = 0, Count = count };

    private void Unmask() => _link.TrySetIrqs(Ask(VfioIrqSetFlags.ActionUnmask, LineIndex, 1), out _);

    private void Listen(uint index, uint count)
    {
        var signals = new EventFd?[count];
        for (var i = 0u; i < signals.Length; i++)
            signals[i] = SignalOf(index, i);
        var set = new VfioIrqSet
        {
            Flags = VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionTrigger,
            Index = index,
            Start = 0,
            Count = count,
            EventFds = signals,
        };
        if (!_link.TrySetIrqs(set, out var fault))
            RemoteLog.NoInterrupts(_log, _link.Name, fault.Errno);
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
            (index == RequestIndex ? _notices : _interrupts).Add(signal, token);
            return signal;
        }
    }

    private void Send(ulong address, uint data)
    {
        if (!_slot.TryEnter(out var port))
            return;
        port.SendMessage(address, data);
        _slot.Leave();
    }

    private void SetLine(bool asserted)
    {
        if (!_slot.TryEnter(out var port))
            return;
        port.SetInterruptLine(asserted);
        _slot.Leave();
    }

    private void Take(ulong token)
    {
        var vector = (int)(token & 0xffff);
        switch ((uint)(token >> 16))
        {
            case MsixIndex:
                Msix!.Raise(vector);
                break;
            case MsiIndex:
                Msi!.Raise(vector);
                break;
            default:
                // A signal that came before another mode was set is nobody's any more.
                if (_isByLine)
                    _line.Raise();
                break;
        }
    }

    private void TakeNotice(ulong token)
    {
        if ((token & DoorbellToken) == 0)
        {
            _requested();
            return;
        }

        lock (_signalsLock)
        {
            if (_doorbells.TryGetValue(token, out var pair))
                pair.To.Signal();
        }
    }
}
