using Microsoft.Extensions.Logging;
using Virtbus.Block;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Daemon.Manifest;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioBlk;
using Virtbus.Models.VirtioConsole;
using Virtbus.Models.VirtioNet;
using Virtbus.Models.VirtioRng;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Subsystems.Net;
using Virtbus.Virtio;

namespace Virtbus.Daemon.Provisioning;

/// <summary>Virtio devices on PCI, as functions: block, network, console and entropy source, which every guest has drivers for.</summary>
internal sealed partial class VirtioFunctions : PluggedFunctions
{
    internal const string KindName = "virtio";
    internal const int MinMtu = 68;
    internal const int MaxMtu = 9000;
    internal const string AdminLinux = "linux";
    internal const string AdminStrict = "strict";
    internal const string AdminOff = "off";
    private const string Block = "blk";
    private const string Net = "net";
    private const string Console = "console";
    private const string Entropy = "rng";
    private const int MaxQueues = 64;
    private const int MostFaultsTold = 10;
    private const int LongestSerial = 20;
    // Of the five bytes behind the first, which says whether an address is a group's.
    private const ulong LastOfGroup = 0xFF_FF_FF_FF_FF;
    private const string StandardSwitch = "switch0";
    private const string StubDriver = "pci-pf-stub";
    // The descriptors fill one page: a guest's IOMMU maps page by page, and each part of a ring has to lie in one piece.
    private const int RingSize = 256;

    private static readonly ProfileField<string> Type = ProfileFields.Choice("virtio", [Block, Net, Console, Entropy], isRequired: true);
    private static readonly ProfileField<int> Queues = ProfileFields.Number("queues", "request queues, or queue pairs of a network device", 1, MaxQueues, standard: 1);
    private static readonly ProfileField<bool> Transitional = ProfileFields.Flag("transitional");
    private static readonly ProfileField<int> Vectors = ProfileFields.Number("vectors", "MSI-X vectors", 0, 2048);
    private static readonly ProfileField<string> Switch = ProfileFields.Text("switch", "1 to 63 letters, digits, '_', '.' and '-', a letter or digit first", ProvisioningEngine.IsName);
    private static readonly ProfileField<ulong> Mac = ProfileFields.Mac("mac");
    private static readonly ProfileField<int> Mtu = ProfileFields.Number("mtu", "bytes", MinMtu, MaxMtu, standard: 1500);
    private static readonly ProfileField<int> Vlan = ProfileFields.Number("vlan", "the VLAN", 1, SwitchPort.MaxVlan);
    private static readonly ProfileField<int> Speed = ProfileFields.Number("speed", "Mbit/s", 1, int.MaxValue);
    private static readonly ProfileField<bool> Offloads = ProfileFields.Flag("offloads", standard: true);
    private static readonly ProfileField<int> VirtualFunctions = ProfileFields.Number("vfs", "virtual functions that there can be", 0, VirtioFunction.MaxVirtualFunctions, standard: 0);
    private static readonly ProfileField<string> Admin = ProfileFields.Choice("admin", [AdminLinux, AdminStrict, AdminOff]);
    private static readonly ProfileField[] OfBlock = [.. Medium.Fields, Queues, VdpaFields.Packed, VdpaFields.Serial, VirtualFunctions, Admin, .. VirtualMedia.Fields, .. NbdExports.Fields];
    private static readonly ProfileField[] OfNet = [Switch, Mac, Queues, Mtu, Speed, Vlan, VdpaFields.Packed, Offloads, VirtualFunctions, Admin];
    private static readonly ProfileField[] OfEntropy = [VirtualFunctions, Admin];
    private static readonly ProfileField[] All = [Type, .. OfBlock.Union(OfNet), Transitional, Vectors, DriverName];

    private readonly NbdExports _nbd;
    private readonly ILogger _log;

    public VirtioFunctions(NbdExports nbd, ProvisioningContext context)
        : base(context)
    {
        _nbd = nbd;
        _log = context.LoggerFactory.CreateLogger("Virtbus.Virtio");
        Engine.AddProvider(this);
        context.Fabric.Tree.AddDeviceGroup(NetFunctionAttributes.Statistics(FindNetwork));
        context.Fabric.Tree.AddDeviceGroup(NetFunctionAttributes.Link(FindNetwork));
    }

    public override string Kind => KindName;

    public override IReadOnlyList<ProfileField> Fields => All;

    public override void Check(FunctionProfile profile)
    {
        if (profile.TryGet(Type, out var type) && OfBlock.Union(OfNet).Except(OwnOf(type)).FirstOrDefault(profile.IsSet) is { } field)
        {
            var who = string.Join(" or ", (((string Type, string Word)[])[(Block, "a disk"), (Net, "a network device"), (Entropy, "an entropy source")]).Where(t => OwnOf(t.Type).Contains(field)).Select(static t => t.Word));
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}': only {who} has '{field.Name}', and this is a virtio {type}. Take it away.");
        }

        if (profile.TryGet(Mac, out var mac) && (mac & LastOfGroup) + (ulong)profile.Get(VirtualFunctions) > LastOfGroup)
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}': behind {NetDevice.FormatAddress(mac)} there are not {profile.Get(VirtualFunctions)} more addresses for its virtual functions. Choose a lower one.");
        if (profile.Get(VirtualFunctions) > 0 && profile.Get(Transitional))
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}': a transitional function has no virtual functions, which are modern all. Take away 'transitional' or 'vfs'.");
        if (profile.Get(VirtualFunctions) > 0 && profile.IsSet(DriverName) && profile.Get(DriverName) == UserDriver)
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}': the driver {UserDriver} enables no virtual functions; it is for them. Take 'driver' away, which makes it {StubDriver}, or 'vfs'.");
        Medium.Check(profile);
        VirtualMedia.Check(profile, profile.Get(VirtualFunctions));
        NbdExports.Check(profile);
    }

    public override IEnumerable<string> FindMissing(FunctionProfile profile) =>
        [.. base.FindMissing(profile), .. profile.TryGet(Type, out var type) && type == Block ? Medium.FindMissing(profile) : []];

    public override ValueTask ChangeAsync(FunctionProfile before, FunctionProfile after, Device device) =>
        FindPart(after.Name)?.Medium is IBlockBackend medium ? _nbd.ChangeAsync(after, medium) : default;

    public override string? DescribeStandard(FunctionProfile profile, ProfileField field)
    {
        if (OfBlock.Union(OfNet).Contains(field) && !(profile.TryGet(Type, out var type) && OwnOf(type).Contains(field)))
            return null;
        if (field == Switch)
            return StandardSwitch;
        if (field == Mac)
            return NetDevice.FormatAddress(AddressOf(profile));
        if (field == DriverName)
            return DriverOf(profile);
        if (field == Admin)
            return profile.Get(VirtualFunctions) > 0 ? AdminLinux : AdminOff;
        if (field == VdpaFields.Serial)
            return VdpaFields.SerialOf(profile);
        return NbdExports.DescribeStandard(profile, field) ?? Medium.DescribeStandard(profile, field) ?? base.DescribeStandard(profile, field);
    }

    /// <summary>The switch that a device is on, also while it is plugged in; null for one that is no network function of these.</summary>
    public string? SwitchOf(PciDevice device)
    {
        if ((device.PhysicalFunction ?? device).Label is not { } name || Engine.Functions.FirstOrDefault(f => f.Kind == KindName && f.Name == name)?.Profile is not { } profile)
            return null;
        if (!profile.TryGet(Type, out var type) || type != Net)
            return null;
        return profile.TryGet(Switch, out var place) ? place : StandardSwitch;
    }

    protected override string DriverOf(FunctionProfile profile) =>
        !profile.IsSet(DriverName) && profile.Get(VirtualFunctions) > 0 ? StubDriver : base.DriverOf(profile);

    protected override ValueTask OfferAsync(FunctionProfile profile, PluggedPart part) =>
        part.Medium is IBlockBackend medium ? _nbd.OpenAsync(profile, medium) : default;

    protected override PluggedPart Make(FunctionProfile profile)
    {
        var name = profile.Name;
        var medium = profile.Get(Type) == Block ? Medium.Open(profile, _log) : null;
        IReadOnlyList<IBlockBackend> others = [];
        var network = profile.Get(Type) == Net ? Context.Switches.Open(profile.TryGet(Switch, out var place) ? place : StandardSwitch) : null;
        VirtioDevice? device = null;
        VirtioFunction? function = null;
        try
        {
            network?.Claim(AddressOf(profile), 1 + profile.Get(VirtualFunctions), name);
            others = medium is null ? [] : VirtualMedia.Open(profile, profile.Get(VirtualFunctions), _log);
            device = MakeDevice(profile, network, medium, index: null);
            function = new VirtioFunction(
                device,
                new VirtioFunctionOptions
                {
                    IsTransitional = profile.Get(Transitional),
                    Vectors = profile.TryGet(Vectors, out var vectors) ? vectors : null,
                    VirtualFunctions = profile.Get(VirtualFunctions),
                    HasAdminQueue = !profile.TryGet(Admin, out var admin) || admin != AdminOff,
                    IsAdminStrict = admin == AdminStrict,
                },
                index => MakeDevice(profile, network, medium is null ? null : others[index], index));
            // Over all its users: one that comes again and again would fill the log.
            var limiter = new LogLimiter(Context.Fabric.Time, MostFaultsTold, TimeSpan.FromMinutes(1));
            function.SetDriverFaultCallback((broken, queue, fault) =>
            {
                if (limiter.TryTake(out var suppressed))
                    DriverFault(_log, broken.Name, queue, fault.Message, suppressed);
            });
            return new PluggedPart(name, function, device is VirtioConsoleDevice console ? Listen(name, new ConsoleTextPort(console), _log) : null, (IDisposable?)medium ?? network) { VirtualMedia = others, Withdraw = medium is null ? null : () => _nbd.CloseAsync(name) };
        }
        catch
        {
            function?.Dispose();
            device?.Dispose();
            medium?.Dispose();
            foreach (var other in others)
                other.Dispose();
            network?.Dispose();
            throw;
        }
    }

    // A virtual function's by its number; null for the physical one.
    private VirtioDevice MakeDevice(FunctionProfile profile, NamedSwitch? network, IBlockBackend? medium, int? index)
    {
        var name = index is { } number ? ManifestFunction.NameOf(profile.Name, number) : profile.Name;
        if (medium is not null)
            return new VirtioBlkDevice(name, medium, SerialOf(profile, index), profile.Get(Queues), RingSize, new CacheModeFile(Context.RuntimeFolder, name), profile.Get(VdpaFields.Packed));
        if (network is null)
            return profile.Get(Type) == Console ? new VirtioConsoleDevice(name) : new VirtioRngDevice(name);
        return new VirtioNetDevice(name, network.Switch, new VirtioNetOptions(AddressOf(profile) + (ulong)(index + 1 ?? 0))
        {
            QueuePairs = profile.Get(Queues),
            Mtu = profile.Get(Mtu),
            Speed = profile.TryGet(Speed, out var speed) ? (uint)speed : null,
            Vlan = (ushort)(profile.TryGet(Vlan, out var vlan) ? vlan : 0),
            Packed = profile.Get(VdpaFields.Packed),
            Offloads = profile.Get(Offloads),
        });
    }

    // The model behind a device, whichever device stands for the function now.
    private VirtioNetDevice? FindNetwork(PciDevice device)
    {
        var physical = device.PhysicalFunction ?? device;
        if (physical.Label is not { } name || FindPart(name)?.Function is not VirtioFunction { Device: VirtioNetDevice own } function || (physical.Bus as PciBus)?.Find(function) != physical)
            return null;
        return device == physical ? own : function.FindVirtualDevice(device.VirtualFunctionIndex) as VirtioNetDevice;
    }

    private static ProfileField[] OwnOf(string type) => type switch
    {
        Block => OfBlock,
        Net => OfNet,
        Entropy => OfEntropy,
        _ => [],
    };

    // Each another one, however long the physical one's is.
    private static string SerialOf(FunctionProfile profile, int? index)
    {
        var serial = VdpaFields.SerialOf(profile);
        if (index is not { } number)
            return serial;
        var end = ManifestFunction.NameOf("", number);
        return serial[..Math.Min(serial.Length, LongestSerial - end.Length)] + end;
    }

    // Locally administered, the same at every start, with room for the virtual functions behind it.
    private static ulong AddressOf(FunctionProfile profile) =>
        profile.TryGet(Mac, out var mac) ? mac : 0x06_00_00_00_00_00 | ((ulong)StableHash.Of(profile.Name) << 8);

    [LoggerMessage(640, LogLevel.Warning, "Function {Function}: its guest's driver did what can't be served on queue {Queue}: {Reason}. The queue stands still until the driver resets the device; "
        + "it is told of no more until another user has the function. {Suppressed} such lines were left out before")]
    private static partial void DriverFault(ILogger log, string function, int queue, string reason, long suppressed);
}
