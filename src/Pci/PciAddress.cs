using System.Globalization;

namespace Virtbus.Pci;

/// <summary>Where a function is: domain, bus, device and function number; written as Linux does, 0000:01:00.0.</summary>
/// <param name="Domain">0 to 0xFFFF.</param>
/// <param name="Bus">Bus number.</param>
/// <param name="Device">0 to 31.</param>
/// <param name="Function">0 to 7.</param>
public readonly record struct PciAddress(ushort Domain, byte Bus, byte Device, byte Function) : IComparable<PciAddress>
{
    /// <summary>Bus, device and function as the 16 bits that mark a function's requests. With ARI, device and function are one number.</summary>
    public ushort RoutingId => (ushort)((Bus << 8) | (Device << 3) | Function);

    /// <summary>The function with a routing id.</summary>
    /// <param name="domain">Its domain.</param>
    /// <param name="routingId">The routing id.</param>
    public static PciAddress FromRoutingId(ushort domain, ushort routingId) =>
        new(domain, (byte)(routingId >> 8), (byte)((routingId >> 3) & 31), (byte)(routingId & 7));

    /// <summary>Reads an address in Linux's form.</summary>
    /// <param name="text">For example 0000:01:00.0; the domain may be left out.</param>
    /// <param name="address">The address.</param>
    public static bool TryParse(ReadOnlySpan<char> text, out PciAddress address)
    {
        address = default;
        ushort domain = 0;
        var colon = text.IndexOf(':');
        if (colon < 0)
            return false;
        if (text[(colon + 1)..].Contains(':'))
        {
            if (colon is 0 or > 4 || !ushort.TryParse(text[..colon], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out domain))
                return false;
            text = text[(colon + 1)..];
            colon = text.IndexOf(':');
        }
        var dot = text.IndexOf('.');
        if (dot != colon + 3 || colon is 0 or > 2 || text.Length != dot + 2
            || !byte.TryParse(text[..colon], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var bus)
            || !byte.TryParse(text[(colon + 1)..dot], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var device)
            || device > 31 || text[dot + 1] is < '0' or > '7')
            return false;
        address = new PciAddress(domain, bus, device, (byte)(text[dot + 1] - '0'));
        return true;
    }

    /// <inheritdoc/>
    public int CompareTo(PciAddress other) => (Domain, RoutingId).CompareTo((other.Domain, other.RoutingId));

    /// <inheritdoc/>
    public override string ToString() => $"{Domain:x4}:{Bus:x2}:{Device:x2}.{Function:x}";
}
