namespace Virtbus.Hardware.Serial;

// The state that moves.
internal sealed partial class Uart16550
{
    /// <summary>No byte goes to the peer or comes from it until the port goes on; when this returns, none is under way.</summary>
    internal void Pause()
    {
        lock (_lock)
            _isPaused = true;
        var spinner = default(SpinWait);
        while (IsSending)
            spinner.SpinOnce();
    }

    internal void Continue()
    {
        ISerialPeer? waiting;
        lock (_lock)
        {
            _isPaused = false;
            SetTimeout();
            waiting = PeerToWake();
        }
        Send();
        _show();
        waiting?.CanSend();
    }

    internal bool TryCapture(out UartState state)
    {
        lock (_lock)
        {
            state = new UartState
            {
                Ier = _ier,
                Lcr = _lcr,
                Mcr = _mcr,
                Scr = _scr,
                Modem = _modem,
                Deltas = _deltas,
                Trigger = (byte)_trigger,
                Divisor = _divisor,
                HasFifo = _hasFifo,
                IsOverrun = _isOverrun,
                IsEmptyPending = _isEmptyPending,
                IsTimeout = _isTimeout,
                Received = [.. Enumerable.Range(0, _receivedCount).Select(i => _received[(_receivedHead + i) % FifoSize])],
                Errors = [.. Enumerable.Range(0, _receivedCount).Select(i => _errors[(_receivedHead + i) % FifoSize])],
                ToSend = _toSend[.._toSendCount],
            };
            return _isPaused;
        }
    }

    internal bool TryReplace(UartState state)
    {
        lock (_lock)
        {
            if (!_isPaused)
                return false;
            (_ier, _lcr, _mcr, _scr, _deltas, _trigger, _divisor) = (state.Ier, state.Lcr, state.Mcr, state.Scr, state.Deltas, state.Trigger, state.Divisor);
            ClearReceiver();
            ClearTransmitter();
            (_hasFifo, _isOverrun, _isEmptyPending, _isTimeout) = (state.HasFifo, state.IsOverrun, state.IsEmptyPending, state.IsTimeout);
            state.Received.CopyTo(_received, 0);
            state.Errors.CopyTo(_errors, 0);
            state.ToSend.CopyTo(_toSend, 0);
            (_receivedCount, _toSendCount) = (state.Received.Length, state.ToSend.Length);
            // The guest knows the lines of the port that it had; where those of this one differ it is told.
            _modem = state.Modem;
            UpdateModem();
            SetTimeout();
            Stage();
        }
        _show();
        return true;
    }

    private bool IsSending
    {
        get
        {
            lock (_lock)
                return _isSending;
        }
    }
}
