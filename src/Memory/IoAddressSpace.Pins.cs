using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Memory;

/// <content>Memory that is held in place: it is unmapped only when its holders let go.</content>
public sealed partial class IoAddressSpace
{
    internal bool TryPin(IoAccess owner, IovaRange range, DmaAccess access, out IoPin? pin, out Fault fault)
    {
        pin = null;
        if (range.Size == 0 || range.Size - 1 > ulong.MaxValue - range.Start.Value || access == DmaAccess.None)
        {
            fault = new Fault(Errno.EINVAL, "the range is empty or wraps around the end of the address space, or no access is asked for");
            return false;
        }

        lock (_lock)
        {
            var mappings = new List<IoMapping>();
            var next = range.Start.Value;
            while (true)
            {
                if (_index.AtOrBelow(next) is not { } mapping || mapping.Last < next)
                {
                    fault = new Fault(Errno.EFAULT, "a part of the range is not mapped");
                    return false;
                }

                if ((mapping.Access & access) != access)
                {
                    fault = new Fault(Errno.EACCES, "a part of the range is not mapped for that access");
                    return false;
                }

                if (mapping.Memory is null)
                {
                    fault = new Fault(Errno.EOPNOTSUPP, "a part of the range is a peer's memory that this process cannot map");
                    return false;
                }

                mappings.Add(mapping);
                if (mapping.Last >= range.Last)
                    break;
                next = mapping.Last + 1;
            }

            pin = new IoPin(this, owner, range, access, mappings);
            foreach (var mapping in mappings)
                mapping.Pins++;
            _pins.Add(pin);
        }

        fault = Fault.None;
        return true;
    }

    internal void Unpin(IoPin pin)
    {
        // Marked before the pin is gone: a reader of the log finds the one or the other.
        if (pin.Access.HasFlag(DmaAccess.Write))
        {
            var slot = AccessSlot.Mine;
            slot.Enter(Number);
            MarkLog(pin.Range.Start, pin.Range.Size);
            slot.Leave();
        }

        lock (_lock)
        {
            foreach (var mapping in pin.Mappings)
                mapping.Pins--;
            _pins.Remove(pin);
        }
    }

    internal IoPin[] PinsOf(IoAccess owner)
    {
        lock (_lock)
            return [.. _pins.Where(pin => ReferenceEquals(pin.Owner, owner))];
    }

    private bool HasPins(ulong first, ulong last)
    {
        if (_pins.Count == 0)
            return false;
        for (var mapping = _index.AtOrAbove(first); mapping is not null && mapping.Start <= last;)
        {
            if (mapping.Pins > 0)
                return true;
            mapping = mapping.Last == ulong.MaxValue ? null : _index.AtOrAbove(mapping.Last + 1);
        }

        return false;
    }

    private void AskToUnpin(ulong first, ulong last)
    {
        IoAccess[] holders;
        lock (_lock)
            holders = [.. _pins.Where(pin => pin.Overlaps(first, last)).Select(pin => pin.Owner).Distinct()];
        // All addresses are one byte more than a range can have.
        var range = new IovaRange(new Iova(first), Math.Max(last - first, last - first + 1));
        foreach (var holder in holders)
            holder.Unmapping?.Invoke(range);
    }
}
