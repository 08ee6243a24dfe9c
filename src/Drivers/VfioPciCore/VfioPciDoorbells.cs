using Virtbus.Buses.Pci;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Drivers.VfioPci;

/// <summary>
/// The eventfds that a user lets stand for writes to registers of an open function. While the user has a region disabled, none of its eventfds is with the function,
/// and what is signalled meanwhile is lost as a write would be.
/// </summary>
/// <remarks>Any thread.</remarks>
internal sealed class VfioPciDoorbells(PciDevice device)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<(uint Region, VfioDoorbell Register), (PciDoorbell Place, EventFd Signal)> _all = [];
    // A bit each.
    private uint _enabled;

    /// <summary>Sets what stands for a register.</summary>
    /// <param name="region">The user's region.</param>
    /// <param name="register">The register in it.</param>
    /// <param name="place">Where that is in the function.</param>
    /// <param name="signal">It is duplicated; null takes it off.</param>
    /// <param name="fault">What the function says.</param>
    internal bool TrySet(uint region, in VfioDoorbell register, in PciDoorbell place, EventFd? signal, out Fault fault)
    {
        lock (_lock)
        {
            var copy = signal?.Duplicate();
            if (!device.TryAttachDoorbell(place, IsEnabled(region) ? signal : null, out fault))
            {
                copy?.Dispose();
                return false;
            }

            if (_all.Remove((region, register), out var old))
                old.Signal.Dispose();
            if (copy is not null)
                _all.Add((region, register), (place, copy));
            return true;
        }
    }

    /// <summary>What the user has enabled may have changed.</summary>
    /// <param name="regions">How many there are.</param>
    /// <param name="isEnabled">Tells which are; asked with the lock, so that the last one who asks is right.</param>
    internal void Sync(int regions, Func<uint, bool> isEnabled)
    {
        lock (_lock)
        {
            var before = _enabled;
            _enabled = 0;
            for (var region = 0; region < regions; region++)
                _enabled |= isEnabled((uint)region) ? 1u << region : 0;
            if (before == _enabled)
                return;
            foreach (var (at, (place, signal)) in _all)
            {
                var isOn = IsEnabled(at.Region);
                if (isOn == (((before >> (int)at.Region) & 1) != 0))
                    continue;
                if (isOn)
                    signal.TryRead(out _);
                device.TryAttachDoorbell(place, isOn ? signal : null, out _);
            }
        }
    }

    /// <summary>The function is another one, which knows none of them.</summary>
    internal void Renew()
    {
        lock (_lock)
        {
            foreach (var (at, (place, signal)) in _all)
            {
                if (IsEnabled(at.Region))
                    device.TryAttachDoorbell(place, signal, out _);
            }
        }
    }

    /// <summary>Takes all off.</summary>
    internal void Clear()
    {
        lock (_lock)
        {
            foreach (var (place, signal) in _all.Values)
            {
                device.TryAttachDoorbell(place, null, out _);
                signal.Dispose();
            }

            _all.Clear();
            _enabled = 0;
        }
    }

    private bool IsEnabled(uint region) => ((_enabled >> (int)region) & 1) != 0;
}
