using Virtbus.Ethernet;

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

    public void Dispose()
    {
        if (!Interlocked.Exchange(ref _isOver, true))
            owner.Close(name);
    }
}
