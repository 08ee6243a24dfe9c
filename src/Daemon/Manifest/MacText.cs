using System.Globalization;
using System.Net.NetworkInformation;

namespace Virtbus.Daemon.Manifest;

/// <summary>Station addresses as manifests and profiles write them.</summary>
internal static class MacText
{
    /// <summary>Six pairs of hexadecimal digits with ':' between them.</summary>
    public static string Of(PhysicalAddress mac) => string.Join(':', mac.GetAddressBytes().Select(static b => b.ToString("x2", CultureInfo.InvariantCulture)));
}
