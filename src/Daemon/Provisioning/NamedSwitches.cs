using Virtbus.Ethernet;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;

namespace Virtbus.Daemon.Provisioning;

/// <summary>The switches of a fabric, by name: one is there as long as somebody is on it, and made for the first. Safe from any thread.</summary>
internal sealed class NamedSwitches
{
    private readonly Lock _lock = new();
    private readonly Dictionary<string, (EthernetSwitch Switch, int Users)> _switches = [];
    private readonly List<AddressClaim> _claims = [];

    /// <summary>The names of those that there are.</summary>
    public IReadOnlyList<string> Names
    {
        get
        {
            lock (_lock)
                return [.. _switches.Keys.Order(StringComparer.Ordinal)];
        }
    }

    /// <summary>The switch of a name; null when nobody is on one.</summary>
    public EthernetSwitch? Find(string name)
    {
        lock (_lock)
            return _switches.GetValueOrDefault(name).Switch;
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

    internal void Claim(string name, NamedSwitch holder, ulong first, int count, string device)
    {
        lock (_lock)
        {
            var last = first + (ulong)count - 1;
            if (_claims.Find(c => c.Name == name && c.First <= last && first <= c.Last) is { } other)
            {
                var both = NetDevice.FormatAddress(Math.Max(first, other.First));
                throw new VirtbusException(Errno.EEXIST,
                    $"Function '{device}': the address {both} on switch '{name}' is that of '{other.Device}' already, or of one of its virtual functions. Choose another mac, or another switch.");
            }

            _claims.Add(new AddressClaim(name, holder, first, last, device));
        }
    }

    internal void Close(string name, NamedSwitch holder)
    {
        lock (_lock)
        {
            _claims.RemoveAll(c => c.Holder == holder);
            var (there, users) = _switches[name];
            if (users > 1)
                _switches[name] = (there, users - 1);
            else
                _switches.Remove(name);
        }
    }

    private sealed record AddressClaim(string Name, NamedSwitch Holder, ulong First, ulong Last, string Device);
}
