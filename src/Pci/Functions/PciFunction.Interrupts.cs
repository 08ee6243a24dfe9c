namespace Virtbus.Pci;

/// <content>Messages and the line: what the function raises, and what config space makes of it.</content>
public abstract partial class PciFunction
{
    /// <summary>
    /// Sets whether the function wants an interrupt on its line. The status bit follows, and the line, unless Interrupt Disable, MSI, MSI-X or
    /// D3hot keep it down. Without effect for a function without a pin. Not under a lock of the model, since the port is called.
    /// </summary>
    /// <param name="asserted">Whether it wants one.</param>
    protected void SetInterrupt(bool asserted)
    {
        StageInterrupt(asserted);
        ShowInterrupt();
    }

    /// <summary>
    /// The first half of <see cref="SetInterrupt"/>: the status bit follows, the line stays. For a model that works out under a lock of its own
    /// whether it wants an interrupt; <see cref="ShowInterrupt"/> comes after that lock.
    /// </summary>
    /// <param name="asserted">Whether it wants one.</param>
    protected void StageInterrupt(bool asserted)
    {
        lock (_sync)
        {
            if (_cause == asserted)
                return;
            _cause = asserted;
            ComputeLine();
        }
    }

    /// <summary>The second half of <see cref="SetInterrupt"/>: the line gets the level that was staged last. Under no lock.</summary>
    protected void ShowInterrupt() => PublishLine();

    /// <summary>Sends the message of an MSI vector, or makes it pending while masked.</summary>
    /// <param name="vector">From 0.</param>
    /// <returns>False when MSI is not enabled.</returns>
    protected bool RaiseMsi(int vector) => Msi is not null && Msi.Raise(vector);

    /// <summary>Sends the message of an MSI-X vector, or makes it pending while masked.</summary>
    /// <param name="vector">From 0.</param>
    /// <returns>False when MSI-X is not enabled.</returns>
    protected bool RaiseMsix(int vector) => MsixTable is not null && MsixTable.Raise(vector);

    /// <summary>Raises a vector of MSI-X or MSI, whichever is enabled; a number beyond those of MSI goes to its last one.</summary>
    /// <param name="vector">From 0.</param>
    /// <returns>False when neither is enabled: then the line is the way, see <see cref="SetInterrupt"/>.</returns>
    protected bool RaiseMessage(int vector) => RaiseMsix(vector) || (Msi is not null && Msi.Raise(Math.Min(vector, Msi.Vectors - 1)));

    /// <summary>Brings everything that follows from config space up to date, and sends what became due.</summary>
    private void SyncInterrupts()
    {
        lock (_sync)
        {
            var power = _powerOffset == 0 ? 0 : Config.Read16(_powerOffset + PciPower.PCI_PM_CTRL) & PciPower.PCI_PM_CTRL_STATE_MASK;
            _isAwake = power == 0;
            _isMaster = _isAwake && (Config.Read16(PciHeader.PCI_COMMAND) & PciCommand.PCI_COMMAND_MASTER) != 0;
            var mode = PciInterruptMode.Line;
            if (_msiCapability is { } msi)
            {
                var control = Config.Read16(msi.Offset + PciMsi.PCI_MSI_FLAGS);
                ulong address = Config.Read32(msi.Offset + PciMsi.PCI_MSI_ADDRESS_LO);
                if (msi.Is64Bit)
                    address |= (ulong)Config.Read32(msi.Offset + PciMsi.PCI_MSI_ADDRESS_HI) << 32;
                Msi!.Load(control, address, Config.Read16(msi.Offset + msi.DataOffset), msi.HasMasks ? Config.Read32(msi.Offset + msi.MaskOffset) : 0);
                if (Msi.IsEnabled)
                    mode = PciInterruptMode.Msi;
            }
            if (_msixCapability is { } msix)
            {
                var control = Config.Read16(msix.Offset + PciMsix.PCI_MSIX_FLAGS);
                MsixTable!.Load((control & PciMsix.PCI_MSIX_FLAGS_ENABLE) != 0, (control & PciMsix.PCI_MSIX_FLAGS_MASKALL) != 0);
                if (MsixTable.IsEnabled)
                    mode = PciInterruptMode.MsiX;
            }
            _mode = mode;
            ComputeLine();
            LinkMessages(_isMaster && _isPlugged && !_isFailed);
        }
        if (_isMaster)
        {
            Msi?.Flush();
            MsixTable?.Flush();
        }
        PublishLine();
    }

    // Under _sync.
    private void ComputeLine()
    {
        var pending = _cause && _mode == PciInterruptMode.Line && Config.Layout.Header.InterruptPin != 0;
        const uint StatusBit = (uint)PciStatus.PCI_STATUS_INTERRUPT << 16;
        Config.Set(PciHeader.PCI_COMMAND, StatusBit, pending ? StatusBit : 0);
        _isLineWanted = pending && _isAwake && (Config.Read16(PciHeader.PCI_COMMAND) & PciCommand.PCI_COMMAND_INTX_DISABLE) == 0;
    }

    // One thread at a time shows the line to the port, under no lock; who finds another one at it leaves it the work. So the last call always
    // shows the last state, and a handler that changes the line in the middle of the call does not wait for itself: it shows what it changed at
    // once, or it would be called again and again by a line that is not asserted any more.
    private void PublishLine()
    {
        var thread = Environment.CurrentManagedThreadId;
        if (Volatile.Read(ref _lineThread) == thread)
        {
            ShowLine();
            return;
        }

        if (Interlocked.Increment(ref _lineWork) != 1)
            return;
        var entered = false;
        var seen = 1;
        do
        {
            entered = entered || _gate.TryEnter();
            if (entered)
            {
                Volatile.Write(ref _lineThread, thread);
                ShowLine();
                Volatile.Write(ref _lineThread, 0);
            }

            seen = Interlocked.Add(ref _lineWork, -seen);
        }
        while (seen != 0);
        if (entered)
            _gate.Leave();
    }

    private void ShowLine()
    {
        var wanted = _isLineWanted && _isPlugged && !_isFailed;
        if (wanted == _lineShown)
            return;
        _lineShown = wanted;
        _port!.SetInterruptLine(wanted);
    }

    private void Send(ulong address, uint data)
    {
        // A message is a write to memory: only a bus master makes one, and without that it is lost.
        if (!_isMaster || _isFailed || !_gate.TryEnter())
            return;
        try
        {
            _port!.SendMessage(address, data);
        }
        finally
        {
            _gate.Leave();
        }
    }

    private IPciMessageTarget? FindTarget(ulong address, uint data)
    {
        if (!_isMaster || !_gate.TryEnter())
            return null;
        try
        {
            return _port!.FindTarget(address, data);
        }
        finally
        {
            _gate.Leave();
        }
    }

    // Under _sync. What it waits for are signals under way, which wait for nobody.
    private void LinkMessages(bool linked)
    {
        MsixTable?.Link(linked);
        Msi?.Link(linked);
    }

    private void ShowPending(uint pending) => Config.Set(_msiCapability!.Offset + _msiCapability.PendingOffset, uint.MaxValue, pending);
}
