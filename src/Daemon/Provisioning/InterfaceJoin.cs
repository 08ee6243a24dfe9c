using System.Globalization;
using Virtbus.Ethernet;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Transports.Tap;

namespace Virtbus.Daemon.Provisioning;

/// <summary>What a network interface is joined to: a switch by its name, or a TAP device of the host.</summary>
/// <param name="Interface">The interface's name.</param>
/// <param name="Switch">The switch; null for a TAP device.</param>
/// <param name="Tap">The TAP device; null for a switch.</param>
/// <param name="Queues">How many queues that has.</param>
/// <param name="Vlan">The VLAN that the interface's port is of; 0 for a trunk.</param>
internal sealed record InterfaceJoin(string Interface, string? Switch, string? Tap, int Queues = 1, int Vlan = 0)
{
    private const int MaxTapName = 15;
    private const string Words = "Write switch=NAME or tap=NAME, and with them vlan=NUMBER, and of a TAP device queues=NUMBER";

    /// <summary>What it is, in a few words.</summary>
    public string Text => (Switch is { } place ? $"switch {place}" : $"tap {Tap}{(Queues > 1 ? $" with {Queues} queues" : "")}") + (Vlan > 0 ? $", vlan {Vlan}" : "");

    /// <summary>The same, as it is written into the tree.</summary>
    public string Line => (Switch is { } place ? $"switch={place}" : $"tap={Tap}{(Queues > 1 ? $" queues={Queues}" : "")}") + (Vlan > 0 ? $" vlan={Vlan}" : "");

    /// <summary>Reads what was written into the tree.</summary>
    /// <param name="path">Where, for messages.</param>
    /// <param name="device">The interface's name.</param>
    /// <param name="line">Words such as <c>switch=lan vlan=7</c>.</param>
    /// <exception cref="VirtbusException">EINVAL: it says nothing that an interface can be joined to.</exception>
    public static InterfaceJoin Parse(string path, string device, string line)
    {
        var pairs = ProfileText.ParsePairs(ProfileText.Split(line)).ToDictionary();
        if (pairs.Keys.FirstOrDefault(static k => k is not ("switch" or "tap" or "queues" or "vlan")) is { } foreign)
            throw Refused($"'{foreign}' is nothing that a join has.{Suggestion.For(foreign, ["switch", "tap", "queues", "vlan"])} {Words}.");
        var (place, tap) = (pairs.GetValueOrDefault("switch"), pairs.GetValueOrDefault("tap"));
        if (place is null == tap is null)
            throw Refused($"an interface is joined to one switch, or to one TAP device. {Words}.");
        if (place is not null && !ProvisioningEngine.IsName(place))
            throw Refused($"'{place}' is no name of a switch: that has 1 to 63 letters, digits, '_', '.' and '-', a letter or digit first.");
        if (tap is not null && !IsTapName(tap))
            throw Refused($"'{tap}' is no name of a TAP device: that has 1 to {MaxTapName} letters, digits, '_', '.' and '-'.");
        if (place is not null && pairs.ContainsKey("queues"))
            throw Refused("only a TAP device has queues here. Take 'queues' away.");
        return new InterfaceJoin(device, place, tap, Number("queues", TapPort.MaxQueues) ?? 1, Number("vlan", SwitchPort.MaxVlan) ?? 0);

        int? Number(string key, int most)
        {
            if (!pairs.TryGetValue(key, out var text))
                return null;
            return int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number >= 1 && number <= most
                ? number
                : throw Refused($"{key}={text} is out of range. Write 1 to {most}.");
        }

        VirtbusException Refused(string what) => new(Errno.EINVAL, $"{path}: {what}");
    }

    private static bool IsTapName(string text) => text.Length is > 0 and <= MaxTapName && text.All(static c => char.IsAsciiLetterOrDigit(c) || c is '_' or '.' or '-');
}
