using static Virtbus.Hardware.Serial.SerialRegister;

namespace Virtbus.Hardware.Serial;

/// <summary>
/// The registers of a 16550A: two FIFOs of 16 bytes, loopback, and interrupts as its data sheet says. The line is as fast as its peer takes and
/// gives bytes; the baud rate only decides when the character timeout comes. Safe from any thread.
/// </summary>
internal sealed partial class Uart16550 : IDisposable
{
    private const int FifoSize = UartState.FifoSize;
    private const int BaudBase = 115200;
    private const int TimeoutCharacters = 4;
    private const ushort DivisorOf9600 = 12;

    private readonly Lock _lock = new();
    private readonly TimeProvider _time;
    private readonly Action<bool> _stage;
    private readonly Action _show;
    private readonly ITimer _timer;
    private readonly byte[] _received = new byte[FifoSize];
    private readonly byte[] _errors = new byte[FifoSize];
    private readonly byte[] _toSend = new byte[FifoSize];
    private ISerialPeer? _peer;
    private int _receivedHead, _receivedCount, _toSendCount, _sendEpoch, _resets;
    private bool _isSending, _isResumed, _wantsRoom, _isPaused;
    private bool _hasFifo, _isOverrun, _isEmptyPending, _isTimeout, _isTimerSet;
    private long _timeoutAt;
    private int _trigger = 1;
    private byte _ier, _lcr, _mcr, _scr, _modem, _deltas;
    private ushort _divisor = DivisorOf9600;

    /// <summary>Makes it as after a reset.</summary>
    /// <param name="time">For the character timeout.</param>
    /// <param name="stage">Told under the lock of this object whether an interrupt is wanted.</param>
    /// <param name="show">Called after that, under no lock.</param>
    internal Uart16550(TimeProvider time, Action<bool> stage, Action show)
    {
        _time = time;
        _stage = stage;
        _show = show;
        _timer = time.CreateTimer(static state => ((Uart16550)state!).Tick(), this, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
    }

    internal ISerialPeer? Peer
    {
        get
        {
            lock (_lock)
                return _peer;
        }
    }

    internal int Resets => Volatile.Read(ref _resets);

    private bool IsLoop => (_mcr & MCR_LOOP) != 0;

    private int Capacity => _hasFifo ? FifoSize : 1;

    private bool HasDivisorAccess => (_lcr & LCR_DLAB) != 0;

    private byte CharacterMask => (byte)(0xFF >> (3 - (_lcr & LCR_WLEN)));

    private bool HasLineError => _isOverrun || (_receivedCount > 0 && _errors[_receivedHead] != 0);

    public void Dispose() => _timer.Dispose();

    internal byte Read(int register)
    {
        byte value;
        ISerialPeer? waiting = null;
        lock (_lock)
        {
            value = register switch
            {
                RBR_THR_DLL => HasDivisorAccess ? (byte)_divisor : TakeReceived(),
                IER_DLM => HasDivisorAccess ? (byte)(_divisor >> 8) : _ier,
                IIR_FCR => ReadIdentification(),
                LCR => _lcr,
                MCR => _mcr,
                LSR => ReadLineStatus(),
                MSR => ReadModemStatus(),
                SCR => _scr,
                _ => 0xFF,
            };
            if (register == RBR_THR_DLL)
                waiting = PeerToWake();
            Stage();
        }
        _show();
        waiting?.CanSend();
        return value;
    }

    internal void Write(int register, byte value)
    {
        ISerialPeer? waiting = null;
        lock (_lock)
        {
            switch (register)
            {
                case RBR_THR_DLL when HasDivisorAccess:
                    _divisor = (ushort)((_divisor & 0xFF00) | value);
                    break;
                case RBR_THR_DLL:
                    WriteTransmitter(value);
                    break;
                case IER_DLM when HasDivisorAccess:
                    _divisor = (ushort)((_divisor & 0x00FF) | (value << 8));
                    break;
                case IER_DLM:
                    // Enabling the interrupt of an empty transmitter makes it pending at once: drivers rely on that to start.
                    if ((value & IER_THRI) != 0 && (_ier & IER_THRI) == 0)
                        _isEmptyPending = _toSendCount == 0;
                    _ier = (byte)(value & IER_ALL);
                    break;
                case IIR_FCR:
                    WriteFifoControl(value);
                    waiting = PeerToWake();
                    break;
                case LCR:
                    _lcr = value;
                    break;
                case MCR:
                    _mcr = (byte)(value & MCR_ALL);
                    UpdateModem();
                    waiting = PeerToWake();
                    break;
                case SCR:
                    _scr = value;
                    break;
            }
            // What was written to the transmitter goes out first, so that the interrupt line does not drop and rise for each byte.
            if (register != RBR_THR_DLL)
                Stage();
        }
        Send();
        _show();
        waiting?.CanSend();
    }

    internal void Reset()
    {
        // Before the count: who reads the new one takes nothing from the peer's line that is of before.
        Peer?.DropUnsent();
        ISerialPeer? waiting;
        lock (_lock)
        {
            Volatile.Write(ref _resets, _resets + 1);
            _ier = _lcr = _mcr = _scr = 0;
            _divisor = DivisorOf9600;
            _hasFifo = false;
            _trigger = 1;
            ClearReceiver();
            ClearTransmitter();
            _isEmptyPending = false;
            UpdateModem();
            _deltas = 0;
            waiting = PeerToWake();
            Stage();
        }
        _show();
        waiting?.CanSend();
    }

    internal bool TryChangePeer(ISerialPeer? before, ISerialPeer? after)
    {
        lock (_lock)
        {
            if (!ReferenceEquals(_peer, before))
                return false;
            _peer = after;
            _wantsRoom = false;
            UpdateModem();
            Stage();
        }
        Resume();
        _show();
        return true;
    }

    internal int Receive(ReadOnlySpan<byte> bytes, int? resets)
    {
        int taken;
        lock (_lock)
        {
            if (resets is { } count && count != _resets)
                return bytes.Length;
            // In loopback the receiver hears the transmitter only.
            taken = IsLoop || _isPaused ? 0 : Math.Min(bytes.Length, Capacity - _receivedCount);
            foreach (var value in bytes[..taken])
                Put(value, 0);
            _wantsRoom = taken < bytes.Length;
            Stage();
        }
        _show();
        return taken;
    }

    internal void ReceiveBreak()
    {
        lock (_lock)
        {
            if (!IsLoop && !_isPaused && _receivedCount < Capacity)
                Put(0, LSR_BI);
            Stage();
        }
        _show();
    }

    internal void Resume()
    {
        lock (_lock)
            _isResumed = true;
        Send();
        _show();
    }

    // One thread at a time hands bytes to the peer, under no lock and in order; who finds another one at it leaves it the work.
    private void Send()
    {
        Span<byte> bytes = stackalloc byte[FifoSize];
        lock (_lock)
        {
            if (_isSending)
                return;
            _isSending = true;
        }
        while (true)
        {
            int count, epoch;
            ISerialPeer? peer;
            lock (_lock)
            {
                _isResumed = false;
                count = _toSendCount;
                epoch = _sendEpoch;
                peer = _peer;
                // While the port stands still, what is to go out waits in it.
                if (count == 0 || _isPaused)
                {
                    _isSending = false;
                    Stage();
                    return;
                }
                _toSend.AsSpan(0, count).CopyTo(bytes);
            }
            // Without a peer the line leads nowhere, and the bytes are gone.
            var taken = peer is null ? count : Math.Clamp(peer.Receive(bytes[..count]), 0, count);
            lock (_lock)
            {
                if (epoch == _sendEpoch && taken > 0)
                {
                    _toSend.AsSpan(taken, _toSendCount - taken).CopyTo(_toSend);
                    _toSendCount -= taken;
                    _isEmptyPending |= _toSendCount == 0;
                }
                // It took less than it was given and did not say meanwhile that it takes more.
                if (taken < count && !_isResumed && epoch == _sendEpoch)
                {
                    _isSending = false;
                    Stage();
                    return;
                }
            }
        }
    }

    private void Stage() => _stage((Identify() & IIR_NO_INT) == 0);

    private byte Identify()
    {
        if ((_ier & IER_RLSI) != 0 && HasLineError)
            return IIR_RLSI;
        if ((_ier & IER_RDI) != 0 && _receivedCount >= _trigger)
            return IIR_RDI;
        if ((_ier & IER_RDI) != 0 && _isTimeout)
            return IIR_TIMEOUT;
        if ((_ier & IER_THRI) != 0 && _isEmptyPending)
            return IIR_THRI;
        return (_ier & IER_MSI) != 0 && _deltas != 0 ? IIR_MSI : IIR_NO_INT;
    }

    private byte ReadIdentification()
    {
        var id = Identify();
        // Reading it clears the interrupt of the empty transmitter, when that is the one that it names.
        if (id == IIR_THRI)
            _isEmptyPending = false;
        return (byte)(id | (_hasFifo ? IIR_FIFO : 0));
    }

    private byte ReadLineStatus()
    {
        var value = _receivedCount > 0 ? LSR_DR | _errors[_receivedHead] : 0;
        if (_isOverrun)
            value |= LSR_OE;
        if (_toSendCount == 0)
            value |= LSR_THRE | LSR_TEMT;
        for (var i = 0; _hasFifo && i < _receivedCount; i++)
        {
            if (_errors[(_receivedHead + i) % FifoSize] != 0)
                value |= LSR_FIFOE;
        }
        _isOverrun = false;
        _errors[_receivedHead] = 0;
        return (byte)value;
    }

    private byte ReadModemStatus()
    {
        var value = (byte)(_modem | _deltas);
        _deltas = 0;
        return value;
    }

    private byte TakeReceived()
    {
        _isTimeout = false;
        if (_receivedCount == 0)
            return 0;
        var value = _received[_receivedHead];
        _errors[_receivedHead] = 0;
        _receivedHead = (_receivedHead + 1) % FifoSize;
        _receivedCount--;
        SetTimeout();
        return value;
    }

    private void WriteTransmitter(byte value)
    {
        _isEmptyPending = false;
        value &= CharacterMask;
        if (IsLoop)
        {
            if (_receivedCount == Capacity)
                _isOverrun = true;
            // The byte that finds no place is lost; without FIFO it takes the place of the one before.
            if (_receivedCount < Capacity)
                Put(value, 0);
            else if (!_hasFifo)
                _received[_receivedHead] = value;
            _isEmptyPending = true;
        }
        else if (_toSendCount < Capacity)
        {
            _toSend[_toSendCount++] = value;
        }
    }

    private void WriteFifoControl(byte value)
    {
        var enable = (value & FCR_ENABLE) != 0;
        if (enable != _hasFifo)
            value |= FCR_CLEAR_RCVR | FCR_CLEAR_XMIT;
        else if (!enable)
            return;
        _hasFifo = enable;
        _trigger = !enable ? 1 : (value >> 6) switch { 0 => 1, 1 => 4, 2 => 8, _ => 14 };
        if ((value & FCR_CLEAR_RCVR) != 0)
            ClearReceiver();
        if ((value & FCR_CLEAR_XMIT) != 0)
            ClearTransmitter();
    }

    private void ClearReceiver()
    {
        _receivedCount = 0;
        _receivedHead = 0;
        Array.Clear(_errors);
        _isTimeout = false;
        _isOverrun = false;
    }

    private void ClearTransmitter()
    {
        _isEmptyPending |= _toSendCount > 0;
        _toSendCount = 0;
        _sendEpoch++;
    }

    private void Put(byte value, byte error)
    {
        var at = (_receivedHead + _receivedCount++) % FifoSize;
        _received[at] = (byte)(value & CharacterMask);
        _errors[at] = error;
        SetTimeout();
    }

    private void UpdateModem()
    {
        int lines;
        if (IsLoop)
        {
            lines = ((_mcr & MCR_RTS) != 0 ? MSR_CTS : 0) | ((_mcr & MCR_DTR) != 0 ? MSR_DSR : 0) | ((_mcr & MCR_OUT1) != 0 ? MSR_RI : 0)
                | ((_mcr & MCR_OUT2) != 0 ? MSR_DCD : 0);
        }
        else
        {
            lines = _peer is not null ? MSR_CTS | MSR_DSR | MSR_DCD : 0;
        }
        var changed = lines ^ _modem;
        _deltas |= (byte)(((changed & MSR_CTS) != 0 ? MSR_DCTS : 0) | ((changed & MSR_DSR) != 0 ? MSR_DDSR : 0)
            | ((changed & MSR_RI) != 0 && (lines & MSR_RI) == 0 ? MSR_TERI : 0) | ((changed & MSR_DCD) != 0 ? MSR_DDCD : 0));
        _modem = (byte)lines;
    }

    // Who waits for room is woken when the receiver is empty: a guest reads until then, so it gets its bytes in batches.
    private ISerialPeer? PeerToWake()
    {
        if (!_wantsRoom || IsLoop || _isPaused || _receivedCount > 0)
            return null;
        _wantsRoom = false;
        return _peer;
    }

    // Four character times after the last byte came or was read, the rest in the FIFO is reported even if it is below the trigger level. The
    // timer is set once and looks at the time that is due when it fires, so a byte costs no change of the timer.
    private void SetTimeout()
    {
        if (!_hasFifo || _receivedCount == 0)
            return;
        var bits = 2 + 5 + (_lcr & LCR_WLEN) + ((_lcr & LCR_STOP) != 0 ? 1 : 0) + ((_lcr & LCR_PARITY) != 0 ? 1 : 0);
        var seconds = (double)(TimeoutCharacters * bits) * (_divisor == 0 ? 0x10000 : _divisor) / BaudBase;
        _timeoutAt = _time.GetTimestamp() + (long)(seconds * _time.TimestampFrequency);
        if (_isTimerSet)
            return;
        _isTimerSet = true;
        _timer.Change(TimeSpan.FromSeconds(seconds), Timeout.InfiniteTimeSpan);
    }

    private void Tick()
    {
        lock (_lock)
        {
            _isTimerSet = false;
            // It tells nobody anything while its state is taken.
            if (!_hasFifo || _receivedCount == 0 || _isPaused)
                return;
            var left = _timeoutAt - _time.GetTimestamp();
            if (left > 0)
            {
                _isTimerSet = true;
                // A whole millisecond is what timers can; less would make this one fire at once, over and over.
                var wait = Math.Max((double)left / _time.TimestampFrequency, 0.001);
                _timer.Change(TimeSpan.FromSeconds(wait), Timeout.InfiniteTimeSpan);
                return;
            }
            _isTimeout = true;
            Stage();
        }
        _show();
    }
}
