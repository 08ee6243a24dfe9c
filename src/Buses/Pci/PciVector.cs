using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Buses.Pci;

/// <summary>One interrupt vector that a driver has allocated.</summary>
/// <remarks>A vector without a handler is masked at the function where that is possible, so what comes before the handler is not lost.</remarks>
public sealed class PciVector : IPciMessageTarget
{
    // A line that no handler quiets would hold the function's thread for ever. Linux gives up after as many.
    private const int StuckCalls = 100_000;

    // Handlers that run on this thread, the innermost last: one that changes its own handler must not wait for itself.
    [ThreadStatic]
    private static List<Slot>? s_running;

    private readonly PciInterrupts _interrupts;
    private readonly Lock _lock = new();
    private Slot? _slot;
    private long _count;
    private bool _isMasked;
    private bool _isDispatching;
    // Masked, or without a handler. Read by senders without the lock.
    private volatile bool _isBlocked = true;
    private volatile bool _isRevoked;
    private int _pending;

    internal PciVector(PciInterrupts interrupts, PciInterruptKinds kind, int index, uint irq)
    {
        _interrupts = interrupts;
        Kind = kind;
        Index = index;
        Irq = (int)irq;
    }

    /// <summary>Whose it is.</summary>
    public PciDevice Device => _interrupts.Device;

    /// <summary>Which way it comes; one kind.</summary>
    public PciInterruptKinds Kind { get; }

    /// <summary>Its number within the function.</summary>
    public int Index { get; }

    /// <summary>Its number in the fabric, as the <c>irq</c> attribute and <c>msi_irqs</c> show it.</summary>
    public int Irq { get; }

    /// <summary>How often it came.</summary>
    public long Count => Interlocked.Read(ref _count);

    /// <summary>
    /// Sets what is called when it comes, on the thread of the function that raised it; it must not block. For INTx it is called when the line
    /// is or gets asserted and the vector is not masked; a handler masks it (<see cref="Mask"/>) or quiets the function, or is called again.
    /// When the call returns, the handler that was set before runs no more.
    /// </summary>
    /// <param name="handler">The handler; null takes it off.</param>
    public void SetHandler(Action? handler) => SetSlot(handler is null ? null : new Slot(handler, null));

    /// <summary>
    /// Sets a line to a user's eventfd that is signalled when it comes, instead of a handler: what a function of this process raises goes straight
    /// there. When the call returns, what was set before runs no more; the eventfd of the line can be exchanged without this.
    /// </summary>
    /// <param name="line">The line.</param>
    /// <exception cref="InvalidOperationException">It is the vector of the INTx line, which somebody has to mask when it comes.</exception>
    public void SetSignal(SignalLine line)
    {
        ArgumentNullException.ThrowIfNull(line);
        if (Kind == PciInterruptKinds.INTx)
            throw new InvalidOperationException("A level-triggered interrupt needs a handler.");
        SetSlot(new Slot(null, line));
    }

    private void SetSlot(Slot? next)
    {
        Slot? old;
        bool blocks;
        lock (_lock)
        {
            old = _slot;
            Volatile.Write(ref _slot, next);
            blocks = next is null || _isMasked;
            if (blocks)
                _isBlocked = true;
        }
        if (old is not null)
            WaitUntilOver(old);
        if (!blocks)
            Open();
        WriteMask();
    }

    /// <summary>
    /// Masks it at the function: MSI-X by the table, MSI by the mask register where there is one, INTx by the command register. When the call
    /// returns, no line to a user's eventfd is signalled by it; a handler may still be under way.
    /// </summary>
    public void Mask()
    {
        lock (_lock)
        {
            _isMasked = true;
            _isBlocked = true;
        }
        Volatile.Read(ref _slot)?.Line?.Drain();
        WriteMask();
    }

    /// <summary>Unmasks it; one that came meanwhile comes now.</summary>
    public void Unmask()
    {
        lock (_lock)
        {
            _isMasked = false;
            if (_slot is null)
                return;
        }
        Open();
        WriteMask();
    }

    internal bool IsBlocked => _isBlocked;

    bool IPciMessageTarget.IsRevoked => _isRevoked;

    bool IPciMessageTarget.TrySignal(PciMessageRoute route)
    {
        if (Volatile.Read(ref _slot) is not { Line: { } line } slot)
            return false;
        using (var use = line.Use())
        {
            // Looked at from inside of the line: who changes one of them drains it afterwards.
            if (slot.Gate.IsClosed || _isBlocked || !route.IsDirect)
                return false;
            use.Signal();
        }
        Interlocked.Increment(ref _count);
        return true;
    }

    void IPciMessageTarget.Drain() => Volatile.Read(ref _slot)?.Line?.Drain();

    /// <summary>The system took it back: its handler runs no more, and messages may reach another vector.</summary>
    internal void Revoke()
    {
        _isRevoked = true;
        SetSlot(null);
    }

    /// <summary>A message came. Takes no lock and allocates nothing.</summary>
    internal void Raise()
    {
        Interlocked.Increment(ref _count);
        if (_isBlocked)
        {
            Interlocked.Exchange(ref _pending, 1);
            // It may have been opened between the look and the mark; then nobody else sees the mark.
            if (_isBlocked || Interlocked.Exchange(ref _pending, 0) == 0)
                return;
        }
        Call();
    }

    /// <summary>The line changed, or what keeps it from the handler did: calls the handler as long as the line is asserted.</summary>
    internal void Dispatch()
    {
        lock (_lock)
        {
            if (_isDispatching)
                return;
            _isDispatching = true;
        }
        for (var calls = 1; ; calls++)
        {
            // Looked at and ended in one step, so a change that finds a dispatch going on is seen by it.
            lock (_lock)
            {
                if (_isBlocked || !_interrupts.IsLineDelivered)
                {
                    _isDispatching = false;
                    return;
                }
            }
            Interlocked.Increment(ref _count);
            Call();
            if (calls == StuckCalls)
            {
                PciLog.LineStuck(_interrupts.Device.PciBus.Log, _interrupts.Device.Name, StuckCalls);
                Mask();
            }
        }
    }

    private void Open()
    {
        lock (_lock)
        {
            if (_isMasked || _slot is null)
                return;
            _isBlocked = false;
        }
        if (Kind == PciInterruptKinds.INTx)
            Dispatch();
        else if (Interlocked.Exchange(ref _pending, 0) == 1)
            Call();
    }

    // The write goes to the function without a lock held, because the function may be raising an interrupt with its own held; whoever finds
    // that the state changed meanwhile writes again, so the last write is right.
    private void WriteMask()
    {
        while (true)
        {
            bool blocked, masked;
            lock (_lock)
                (blocked, masked) = (_isBlocked, _isMasked);
            _interrupts.WriteMask(this, Kind == PciInterruptKinds.INTx ? masked : blocked);
            lock (_lock)
            {
                if (blocked == _isBlocked && masked == _isMasked)
                    return;
            }
        }
    }

    private void Call()
    {
        while (Volatile.Read(ref _slot) is { } slot)
        {
            if (slot.Line is { } line)
            {
                using var use = line.Use();
                if (slot.Gate.IsClosed)
                    continue;
                use.Signal();
                return;
            }
            if (!slot.Gate.TryEnter())
                continue;
            var running = s_running ??= [];
            running.Add(slot);
            try
            {
                slot.Handler!();
            }
            catch (Exception e)
            {
                PciLog.HandlerFailed(_interrupts.Device.PciBus.Log, _interrupts.Device.Name, Index, e);
            }
            finally
            {
                running.RemoveAt(running.Count - 1);
                slot.Gate.Leave();
            }
            return;
        }
    }

    private static void WaitUntilOver(Slot slot)
    {
        slot.Gate.Shut();
        if (slot.Line is { } line)
        {
            line.Drain();
            return;
        }
        var mine = 0;
        foreach (var running in s_running ?? [])
        {
            if (running == slot)
                mine++;
        }
        slot.Gate.TryWait(Timeout.Infinite, own: mine);
    }

    // A handler, or a line.
    private sealed class Slot(Action? handler, SignalLine? line)
    {
        public readonly Action? Handler = handler;
        public readonly SignalLine? Line = line;
        public readonly UseGate Gate = new();
    }
}
