using System.Buffers.Binary;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Hardware.VirtioPci;

// The state that moves: the registers' beside the device's.
internal sealed partial class VirtioUnit
{
    private const string Section = "virtio-pci";
    private const string LegacySection = "virtio-pci-legacy";
    private const ushort StateVersion = 1;

    // Who has the function, and who administers it, may stop it, each for itself. Taken before the lock of the accesses.
    private readonly Lock _standstill = new();
    private bool _isHeld;
    private bool _isStopped;
    private bool _isRestored;

    // Not under the lock of the accesses: a reset that ends by it shows the line.
    internal bool TryPause(out Fault fault)
    {
        lock (_standstill)
        {
            _isHeld = true;
            return _device.TryPause(out fault);
        }
    }

    internal void Resume()
    {
        lock (_standstill)
        {
            _isHeld = false;
            GoOn();
        }
    }

    private void GoOn()
    {
        if (_isHeld || _isStopped)
            return;
        _device.Resume();
        bool isRestored;
        lock (_access)
            (isRestored, _isRestored) = (_isRestored, false);
        _port.ShowLine();
        if (!isRestored)
            return;

        // An interrupt may have been lost on the way; one too many harms nobody.
        _registers.RaiseAll();
    }

    internal bool TrySave(StateWriter writer, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(writer);
        lock (_access)
        {
            if (!_device.TrySave(writer, out fault))
                return false;
            var state = new byte[1 + _registers.SavedSize];
            state[0] = _interrupts.Value;
            _registers.Save(state.AsSpan(1));
            writer.Add(Section, StateVersion, state);
            if (_legacy is null || !(_hasPorts || _legacy.IsUsed))
                return true;
            var legacy = new byte[LegacySize];
            _legacy.Save(legacy);
            for (var i = 0; i < _device.QueueCount; i++)
                BinaryPrimitives.WriteUInt32LittleEndian(legacy.AsSpan(VirtioLegacyRegisters.SavedSize + (i * sizeof(uint))), _legacy.Pages[i]);
            writer.Add(LegacySection, StateVersion, legacy);
            return true;
        }
    }

    internal bool TryRestore(StateReader reader, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(reader);
        lock (_access)
        {
            var size = 1 + _registers.SavedSize;
            if (!reader.TryTake(Section, StateVersion, size, size, out var section, out fault))
                return false;
            StateSection? found = null;
            if (_legacy is not null && !reader.TryTakeIfThere(LegacySection, StateVersion, LegacySize, LegacySize, out found, out fault))
                return false;
            if (_hasPorts && found is null)
                return Refuse($"section '{LegacySection}' is missing", out fault);
            var legacy = found ?? default;
            var content = section.Content.Span;
            if ((content[0] & ~(VirtioInterruptStatus.Queue | VirtioInterruptStatus.Config)) != 0 || !_registers.IsSaved(content[1..]))
                return Refuse(section, out fault);
            if (found is not null && (legacy.Content.Span[7] > 1 || legacy.Content.Span[8..VirtioLegacyRegisters.SavedSize].ContainsAnyExcept((byte)0)))
                return Refuse(legacy, out fault);
            // Last: what it refuses changes nothing.
            if (!_device.TryRestore(reader, out fault))
                return false;
            _registers.Restore(content[1..]);
            _interrupts.Take();
            if (content[0] != 0)
                _interrupts.Set(content[0]);
            RestoreLegacy(legacy.Content.Span);
            _isRestored = true;
            return true;
        }
    }

    private int LegacySize => VirtioLegacyRegisters.SavedSize + (_device.QueueCount * sizeof(uint));

    private void RestoreLegacy(ReadOnlySpan<byte> from)
    {
        if (_legacy is null)
            return;
        if (from.IsEmpty)
        {
            _legacy.Reset();
            return;
        }

        Span<uint> pages = stackalloc uint[_device.QueueCount];
        for (var i = 0; i < pages.Length; i++)
            pages[i] = BinaryPrimitives.ReadUInt32LittleEndian(from[(VirtioLegacyRegisters.SavedSize + (i * sizeof(uint)))..]);
        _legacy.Restore(from, pages);
    }

    private static bool Refuse(in StateSection section, out Fault fault) =>
        Refuse($"section '{section.Name}', version {section.Version}, has values that such a function can't have", out fault);

    private static bool Refuse(string why, out Fault fault)
    {
        fault = new Fault(Errno.EINVAL, why);
        return false;
    }
}
