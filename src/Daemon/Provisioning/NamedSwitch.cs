using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Daemon.Provisioning;

/// <summary>One user's hold of a switch.</summary>
/// <param name="owner">Where it is known.</param>
/// <param name="name">Its name.</param>
/// <param name="network">The switch.</param>
internal sealed class NamedSwitch(NamedSwitches owner, string name, EthernetSwitch network) : IDisposable
{
    private bool _isOver;

    /// <summary>The switch.</summary>
    public EthernetSwitch Switch => network;

    /// <summary>Takes addresses for a device, until this is disposed.</summary>
    /// <param name="first">The first of them.</param>
    /// <param name="count">How many, one behind the other.</param>
    /// <param name="device">Whose they are.</param>
    /// <exception cref="VirtbusException">EEXIST: another device of the switch has one of them.</exception>
    public void Claim(ulong first, int count, string device) => owner.Claim(name, this, first, count, device);

    public void Dispose()
    {
        if (!Interlocked.Exchange(ref _isOver, true))
            owner.Close(name, this);
    }
}
