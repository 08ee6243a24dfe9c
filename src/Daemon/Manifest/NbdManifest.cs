using System.Text.Json;
using Virtbus.Daemon.Provisioning;
using Virtbus.Platform;
using Virtbus.Transports.Nbd;

namespace Virtbus.Daemon.Manifest;

/// <summary>How a disk is offered by NBD.</summary>
/// <param name="Address">Where: <c>unix</c>, the absolute path of a socket, or an IP address and port.</param>
/// <param name="Name">What clients ask for; the disk's name when null.</param>
/// <param name="ReadOnly">Whether clients may only read.</param>
/// <param name="Insecure">Whether an address that other hosts can reach is meant.</param>
internal sealed record NbdManifest(ManifestValue<string> Address, ManifestValue<string>? Name, ManifestValue<bool> ReadOnly, ManifestValue<bool> Insecure)
{
    /// <summary>What is said of it, as attributes of the disk's profile.</summary>
    public IEnumerable<KeyValuePair<string, string>> Values
    {
        get
        {
            yield return new("nbd", Address);
            if (Name is { } name)
                yield return new("nbd_name", name);
            if (ReadOnly)
                yield return new("nbd_readonly", "true");
            if (Insecure)
                yield return new("nbd_insecure", "true");
        }
    }

    /// <summary>The keys of a disk that say it.</summary>
    /// <param name="baseFolder">Where relative paths of sockets start.</param>
    public sealed class Keys(string baseFolder)
    {
        private readonly Field<string> _address = new("nbd", new AddressRule(baseFolder), "where the disk is offered by NBD: unix for NAME.nbd in the runtime folder, the path of a socket, or an IP address and port.");
        private readonly Field<string> _name = new("nbd_name", new TextRule("1 to 255 characters", @"^[^\x00-\x1f]+$", 255), "what NBD clients ask for; the disk's name when absent.");
        private readonly Field<bool> _readOnly = new("nbd_readonly", new BooleanRule(), "whether NBD clients may only read; false when absent.");
        private readonly Field<bool> _insecure = new("nbd_insecure", new BooleanRule(), "whether NBD may be offered where other hosts can reach it, which is without TLS; false when absent.");

        /// <summary>The keys.</summary>
        public Field[] All => [_address, _name, _readOnly, _insecure];

        /// <summary>Reads them; null when the disk is not offered, or something is wrong.</summary>
        public NbdManifest? Read(SectionReader r)
        {
            var theAddress = r.Read(_address);
            var theName = r.Read(_name);
            var theReadOnly = r.Read(_readOnly, false);
            var theInsecure = r.Read(_insecure, false);
            if (!r.Has(_address) && All.FirstOrDefault(f => f != _address && r.Has(f)) is { } alone)
                r.Report(alone, $"only a disk that is offered by NBD has '{alone.Name}'. Remove the key, or add 'nbd'.");
            if (theAddress is not { } address)
                return null;
            if (address.Value is not NbdExports.OwnSocket && !address.Value.StartsWith('/') && !theInsecure && !NbdAddress.OfTcp(address, insecure: true).IsLocal)
                r.Report(address, $"other hosts can reach {address}, and NBD is served without TLS: whoever connects reads and writes the disk. Listen on 127.0.0.1, or add 'nbd_insecure: true' if that is meant.");
            return new NbdManifest(address, theName, theReadOnly, theInsecure);
        }
    }

    private sealed class AddressRule(string baseFolder) : ScalarRule<string>
    {
        public override string Expected => $"'{NbdExports.OwnSocket}', the path of a socket with a '/' in it, or an IP address and port such as 127.0.0.1:{NbdAddress.StandardPort}";

        public override void WriteSchema(Utf8JsonWriter json)
        {
            json.WriteString("type", "string");
            json.WriteNumber("minLength", 1);
        }

        protected override bool TryParse(string text, out string value)
        {
            var isPath = text.Contains('/', StringComparison.Ordinal) && !text.Contains('\0', StringComparison.Ordinal);
            value = isPath ? Path.GetFullPath(text, baseFolder) : text;
            return isPath || NbdExports.IsAddress(text);
        }
    }
}
