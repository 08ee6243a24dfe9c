using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Net;

/// <summary>What a network driver does for its interface (Linux: net_device_ops). Control calls come one at a time.</summary>
public interface INetOps
{
    /// <summary>Brings the interface up: from here on frames flow.</summary>
    /// <param name="device">The interface.</param>
    ValueTask OpenAsync(NetDevice device);

    /// <summary>Takes the interface down: when it returns no frame is delivered any more. None is sent from before the call on.</summary>
    /// <param name="device">The interface.</param>
    ValueTask StopAsync(NetDevice device);

    /// <summary>
    /// Puts one frame into a transmit queue; the hardware need not see it before <see cref="Flush"/>. Called under the queue's lock, so by one thread at a
    /// time; must not block or allocate.
    /// </summary>
    /// <param name="queue">The queue, below <see cref="NetDevice.Queues"/>.</param>
    /// <param name="frame">The frame, copied before return. Nothing is left undone but what <see cref="NetDeviceOptions.TransmitOffloads"/> has.</param>
    /// <param name="fault">ENOBUFS: the queue is full.</param>
    bool TryTransmit(int queue, in EthernetFrame frame, out Fault fault);

    /// <summary>Shows the hardware what was put into a queue since the last call, and tells it once. Called under the queue's lock.</summary>
    /// <param name="queue">The queue.</param>
    void Flush(int queue)
    {
    }

    /// <summary>Has a receive queue looked at by <see cref="Poll"/>, and the hardware not asked for interrupts; or no longer. Any thread.</summary>
    /// <param name="queue">The queue, below the number that was registered.</param>
    /// <param name="polled">Whether it is to be.</param>
    /// <returns>False when the driver has no way to.</returns>
    bool SetPolled(int queue, bool polled) => false;

    /// <summary>Receives what has come on a queue that is polled. One thread at a time; must not block or allocate.</summary>
    /// <param name="queue">The queue.</param>
    /// <returns>Whether there was any.</returns>
    bool Poll(int queue) => false;

    /// <summary>Has all frames received, whomever they are for, or no longer. Without effect for hardware that does not choose.</summary>
    /// <param name="device">The interface.</param>
    /// <param name="promiscuous">Whether all are wanted.</param>
    ValueTask SetPromiscuousAsync(NetDevice device, bool promiscuous) => default;

    /// <summary>Gives the hardware another address.</summary>
    /// <param name="device">The interface.</param>
    /// <param name="address">48 bits, no group's.</param>
    /// <exception cref="VirtbusException">EOPNOTSUPP: its address is fixed; what the hardware answers.</exception>
    ValueTask SetAddressAsync(NetDevice device, ulong address) =>
        throw new VirtbusException(Errno.EOPNOTSUPP, $"Interface {device?.Name} has an address that can't be changed.");

    /// <summary>Has the frames of a VLAN received, or no longer; of hardware that chooses (<see cref="NetDeviceOptions.FiltersVlans"/>).</summary>
    /// <param name="device">The interface.</param>
    /// <param name="vlan">The VLAN, 1 to 4094.</param>
    /// <param name="wanted">Whether they are wanted.</param>
    /// <exception cref="VirtbusException">What the hardware answers.</exception>
    ValueTask SetVlanAsync(NetDevice device, ushort vlan, bool wanted) => default;
}
