using Virtbus.Ethernet;

namespace Virtbus.Daemon.Provisioning;

/// <summary>The switches of a fabric, by name: one is there as long as somebody is on it, and made for the first. Safe from any thread.</summary>
internal sealed class NamedSwitches
{
    private readonly Lock _lock = new();
    private readonly Dictionary<string, (EthernetSwitch Switch, int Users)> _switches = [];

    /// <summary>The names of those that there are.</summary>
    public IReadOnlyList<string> Names
    {
        get
        {
            lock (_lock)
                return [.. _switches.Keys.Order(StringComparer.Ordinal)];
        }
    }

    /// <summary>Takes the switch of a name for one more user.</summary>
    public NamedSwitch Open(string name)
    {
        lock (_lock)
        {
            var (there, users) = _switches.GetValueOrDefault(name);
            there ??= new EthernetSwitch();
            _switches[name] = (there, users + 1);
            return new NamedSwitch(this, name, there);
        }
    }

    internal void Close(string name)
    {
        lock (_lock)
        {
            var (there, users) = _switches[name];
            if (users > 1)
                _switches[name] = (there, users - 1);
            else
                _switches.Remove(name);
        }
    }
}
