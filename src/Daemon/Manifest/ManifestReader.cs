using Virtbus.Block;
using Virtbus.Daemon.Provisioning;
using Virtbus.Ethernet;
using Virtbus.Platform;
using Virtbus.Transports.Tap;

namespace Virtbus.Daemon.Manifest;

/// <summary>Reads manifests. What is wrong in a file is told all at once, each with its line and column.</summary>
internal sealed class ManifestReader
{
    private const int MaxBytes = 16 << 20;
    private const int MaxAuxiliaryName = 39;
    private const string VfioPci = "vfio-pci";
    private const int MaxVirtualFunctions = 256;
    private const int MaxDevices = 100_000;
    private const int MaxNamed = 256;
    private readonly string _file;
    private readonly List<ManifestError> _errors = [];

    private ManifestReader(string file) => _file = file;

    /// <summary>The rules of a manifest in a folder.</summary>
    /// <param name="baseFolder">Where relative paths start.</param>
    /// <param name="file">The file's name as messages show it.</param>
    public static SectionRule<FabricManifest> Rules(string baseFolder, string file = "")
    {
        var name = new TextRule("1 to 63 letters, digits, '_', '.' and '-', a letter or digit first", "^[A-Za-z0-9][A-Za-z0-9_.-]*$", 63);
        var word = new TextRule($"letters, digits, '_' and '-', with module and name at most {MaxAuxiliaryName} characters together", "^[A-Za-z0-9_-]+$", MaxAuxiliaryName - 2);

        var driverName = new TextRule("a driver's name, for example vfio-pci", "^[A-Za-z0-9_.-]+$", 63);

        var adapterName = new Field<string>("name", name, "the device's name.", required: true);
        var model = new Field<AdapterModel>("model", new ChoiceRule<AdapterModel>(), "the make, merlin or harrier.", required: true);
        var mac = new Field<System.Net.NetworkInformation.PhysicalAddress>("mac", new MacRule(), "the station address; derived from the name when absent.");
        var parts = new Field<IReadOnlyList<ManifestValue<AdapterParts>>>("parts", new ListRule<AdapterParts>(new ChoiceRule<AdapterParts>(), unique: true), "what the adapter is capable of; both net and vdpa when absent; may be [].");
        var ports = new Field<int>("ports", new CountRule(1, 16), "the number of network parts, when net is among the parts; 1 when absent.");
        var tapName = new TextRule("a network device name of at most 15 characters", "^[A-Za-z0-9_.-]+$", 15);
        var tap = new Field<string>("tap", tapName, "a TAP device of the host, joined to the adapter's switch; making it needs privilege.");
        var uplink = new Field<string>("switch", name, "the switch of virtio network devices, by any name, that is joined to the adapter's own.");
        var vfs = new Field<int>("vfs", new CountRule(0, MaxVirtualFunctions), "the number of virtual functions that are enabled; 0 when absent.");
        var vfNumber = new Field<int>("vf", new CountRule(0, MaxVirtualFunctions - 1), "which virtual function, from 0.", required: true);
        var vfName = new Field<string>("name", name, "its name as a function; that of the adapter with v and the number when absent.");
        var vfMac = new Field<System.Net.NetworkInformation.PhysicalAddress>("mac", new MacRule(), "its station address; derived from the adapter's when absent.");
        var vfQueues = new Field<int>("queues", new CountRule(1, 16), "how many queue sets it can make; 8 when absent.");
        var vfDriver = new Field<string>("driver", driverName, "the only driver that may take it, vfio-pci for one that guests shall have; what the bus chooses when absent.");
        var profiles = new Field<IReadOnlyList<ManifestValue<VirtualFunctionManifest>>>(
            "vf_profiles",
            new ListRule<VirtualFunctionManifest>(new SectionRule<VirtualFunctionManifest>("a profile", [vfNumber, vfName, vfMac, vfQueues, vfDriver], [], r =>
            {
                var theNumber = r.Read(vfNumber);
                var theName = r.Read(vfName);
                var theMac = r.Read(vfMac);
                var theQueues = r.Read(vfQueues);
                var theDriver = r.Read(vfDriver);
                return theNumber is { } n ? new VirtualFunctionManifest(n, theName, theMac, theQueues, theDriver) : null;
            })),
            "what some of the virtual functions are to be, before they are enabled.");
        var adapters = new Field<IReadOnlyList<ManifestValue<AdapterManifest>>>(
            "adapters",
            new ListRule<AdapterManifest>(new SectionRule<AdapterManifest>("an adapter", [adapterName, model, mac, parts, ports, tap, uplink, vfs, profiles], [], r =>
            {
                var theName = r.Read(adapterName);
                var theModel = r.Read(model);
                var theMac = r.Read(mac);
                var words = r.Read(parts);
                var theParts = words is { } w
                    ? new ManifestValue<AdapterParts>(w.Value.Aggregate(AdapterParts.None, (all, p) => all | p.Value), w.At, w.Path)
                    : r.Absent(AdapterParts.Net | AdapterParts.Vdpa);
                var thePorts = r.Read(ports, 1);
                var theTap = r.Read(tap);
                var theSwitch = r.Read(uplink);
                var theCount = r.Read(vfs, 0);
                var theProfiles = r.Read(profiles, []);
                // A wrong model does not take the adapter's name away from those who refer to it.
                return theName is { } n
                    ? new AdapterManifest(n, theModel ?? r.Absent(default(AdapterModel)), theMac, theParts, thePorts, theTap, theSwitch, theCount, theProfiles.Value)
                    : null;
            })),
            "simulated multi-function adapters.");

        var switchName = new Field<string>("name", name, "the switch's name.", required: true);
        var switchTap = new Field<string>("tap", tapName, "a TAP device of the host that is a port of the switch; making it needs privilege.");
        var tapQueues = new Field<int>("queues", new CountRule(1, TapPort.MaxQueues), "how many queues the TAP device has; 1 when absent.");
        var tapVlan = new Field<int>("vlan", new CountRule(1, SwitchPort.MaxVlan), "the VLAN that the TAP device's port is of; frames pass with their tags when absent.");
        var switches = new Field<IReadOnlyList<ManifestValue<SwitchManifest>>>(
            "switches",
            new ListRule<SwitchManifest>(new SectionRule<SwitchManifest>("a switch", [switchName, switchTap, tapQueues, tapVlan], [], r =>
            {
                var theName = r.Read(switchName);
                var theTap = r.Read(switchTap);
                var theQueues = r.Read(tapQueues, 1);
                var theVlan = r.Read(tapVlan);
                if (!r.Has(switchTap) && Array.Find([tapQueues, tapVlan], r.Has) is { } alone)
                    r.Report(alone, $"only a TAP device has '{alone.Name}', and this switch has none. Remove the key, or add 'tap'.");
                return theName is { } n ? new SwitchManifest(n, theTap, theQueues, theVlan) : null;
            })),
            "switches of virtio network devices, with a way to the host; others come with the devices that name them.");

        var joined = new Field<string>("interface", new TextRule("a network interface's name of at most 15 characters", "^[^/\\s]{1,15}$", 15), "the interface, as class net has it; it is joined whenever it is there.", required: true);
        var joinSwitch = new Field<string>("switch", name, "the switch that it is a port of, by any name.");
        var joinTap = new Field<string>("tap", tapName, "the TAP device of the host that it is joined to; making it needs privilege.");
        var joinVlan = new Field<int>("vlan", new CountRule(1, SwitchPort.MaxVlan), "the VLAN that the interface's port is of; frames pass with their tags when absent.");
        var joins = new Field<IReadOnlyList<ManifestValue<JoinManifest>>>(
            "joins",
            new ListRule<JoinManifest>(new SectionRule<JoinManifest>("a join", [joined, joinSwitch, joinTap, tapQueues, joinVlan], [joinSwitch, joinTap], r =>
            {
                var theInterface = r.Read(joined);
                var theSwitch = r.Read(joinSwitch);
                var theTap = r.Read(joinTap);
                var theQueues = r.Read(tapQueues, 1);
                var theVlan = r.Read(joinVlan);
                if (r.Has(joinSwitch) && r.Has(tapQueues))
                    r.Report(tapQueues, "only a TAP device has 'queues', and this interface is joined to a switch. Remove the key.");
                return theInterface is { } i && (theSwitch ?? theTap) is not null
                    ? new JoinManifest(i, theTap, new InterfaceJoin(i, theSwitch?.Value, theSwitch is null ? theTap?.Value : null, theQueues, theVlan?.Value ?? 0))
                    : null;
            })),
            "network interfaces of drivers that are joined to switches, or to TAP devices of the host.");

        var diskName = new Field<string>("name", name, "the device's name.", required: true);
        var adapter = new Field<string>("adapter", name, "the adapter on whose vdpa part the disk is.", required: true);
        var image = new Field<string>("file", new PathRule(baseFolder, PathKind.File), "the file with the sectors.");
        var format = new Field<DiskFormat>("format", new ChoiceRule<DiskFormat>(), "raw: the file's bytes are the disk's, also where they look like an image format; such a file is refused when absent.");
        var direct = new Field<bool>("direct", new BooleanRule(), "whether the host's page cache is passed by (O_DIRECT); false when absent.");
        var memory = new Field<long>("memory", new SizeRule(), "the size of a disk in memory, for example 64MiB.");
        var nothing = new Field<long>("null", new SizeRule(), "the size of a disk that drops writes; what is read from it is undefined.");
        var readOnly = new Field<bool>("readonly", new BooleanRule(), "whether writes are refused; false when absent.");
        var queues = new Field<int>("queues", new CountRule(1, 64), "the number of request queues, or of queue pairs of a network device; 1 when absent.");
        var packed = new Field<bool>("packed", new BooleanRule(), "whether packed rings are offered beside split ones; false when absent.");
        var serial = new Field<string>("serial", new SerialRule(20), "what the guest reads as serial number; the name when absent.");
        var nbd = new NbdManifest.Keys(baseFolder);
        Field[] ofDisk = [image, format, direct, memory, nothing, readOnly, queues, packed, serial, .. nbd.All];
        DiskManifest? ReadDisk(SectionReader r, ManifestValue<string>? theName, ManifestValue<string>? theAdapter)
        {
            var backing = r.Absent<DiskBacking>(new DiskBacking.Null(0));
            var theReadOnly = r.Read(readOnly, false);
            var theFormat = r.Read(format);
            var theDirect = r.Read(direct, false);
            if (r.Read(image) is { } f)
            {
                backing = new ManifestValue<DiskBacking>(new DiskBacking.File(f, IsRaw: theFormat is not null, IsDirect: theDirect), f.At, f.Path);
                // Here and not when it is opened, so that what is wrong with any disk is told at once.
                if (FileBackend.FindFault(f, theReadOnly, raw: theFormat is not null, theDirect) is { } fault)
                    r.Report(f, fault.Message);
            }
            else if (theFormat is { } given && !r.Has(image))
            {
                r.Report(given, "only a file has a format, and this disk is in none. Remove the key.");
            }
            if (theDirect && !r.Has(image))
                r.Report(theDirect, "only a file has a page cache to pass by, and this disk is in none. Remove the key 'direct'.");
            if (r.Read(memory) is { } m)
                backing = new ManifestValue<DiskBacking>(new DiskBacking.Memory(m), m.At, m.Path);
            if (r.Read(nothing) is { } z)
                backing = new ManifestValue<DiskBacking>(new DiskBacking.Null(z), z.At, z.Path);
            var theQueues = r.Read(queues, 1);
            var thePacked = r.Read(packed, false);
            var theSerial = r.Read(serial);
            var theNbd = nbd.Read(r);
            return theName is { } n && theAdapter is { } a
                ? new DiskManifest(n, a, backing, theReadOnly, theQueues, thePacked, theSerial ?? n with { Value = n.Value.Length <= 20 ? n.Value : n.Value[..20] }) { Nbd = theNbd }
                : null;
        }

        var disks = new Field<IReadOnlyList<ManifestValue<DiskManifest>>>(
            "disks",
            new ListRule<DiskManifest>(new SectionRule<DiskManifest>("a disk", [diskName, adapter, .. ofDisk], [image, memory, nothing], r => ReadDisk(r, r.Read(diskName), r.Read(adapter)))),
            "virtio-blk disks, each on a vhost-user socket of its own.");

        var serialName = new Field<string>("name", name, "the port's name.", required: true);
        var serialDriver = new Field<string>("driver", driverName, $"the only driver that may take it; {VfioPci} when absent.");
        var serials = new Field<IReadOnlyList<ManifestValue<SerialManifest>>>(
            "serials",
            new ListRule<SerialManifest>(new SectionRule<SerialManifest>("a serial port", [serialName, serialDriver], [], r =>
            {
                var theName = r.Read(serialName);
                var theDriver = r.Read(serialDriver, VfioPci);
                return theName is { } n ? new SerialManifest(n, theDriver) : null;
            })),
            "PCI serial ports, each on a vfio-user socket of its own and with a socket for the text.");

        var functionName = new Field<string>("name", name, "the function's name.", required: true);
        var simulated = new Field<string>("simulated", new TextRule("a kind of simulated function, for example scratch", "^[a-z0-9-]+$", 63), "the kind of a simulated function: scratch.");
        var vfioUser = new Field<string>("vfio_user", new PathRule(baseFolder, PathKind.Socket), "the vfio-user socket of the process that serves it.");
        var host = new Field<string>("host", new TextRule("a PCI address, for example 0000:03:00.1", "^([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\\.[0-7]$", 12), "the PCI address of a function of this host that is bound to the host's vfio-pci.");
        var functionDriver = new Field<string>("driver", driverName, "the only driver that may take it; what the bus chooses when absent.");
        var provider = new Field<string>("provider", new TextRule("a provider's name, for example that of a module", "^[A-Za-z0-9_-]+$", 63), "the name of any other provider of the PCI bus, for example one that a module brings.");
        var providersFunction = new Field<string>("function", new TextRule("the provider's name for a function", "^[!-~]+$", 255), "the provider's name for the function, beside 'provider'.");
        var virtio = new Field<VirtioType>("virtio", new ChoiceRule<VirtioType>(), "a virtio device: blk, net, console or rng; offered to guests on a vfio-user socket.");
        var transitional = new Field<bool>("transitional", new BooleanRule(), "virtio: whether drivers from before version 1.0 of the standard find it too; false when absent.");
        var vectors = new Field<int>("vectors", new CountRule(0, 2048), "virtio: the number of MSI-X vectors, 0 for none; one a queue and one for the configuration when absent.");
        var place = new Field<string>("switch", name, "virtio net: the switch that it is on, by any name; switch0 when absent.");
        var mtu = new Field<int>("mtu", new CountRule(VirtioFunctions.MinMtu, VirtioFunctions.MaxMtu), "virtio net: the longest payload of a frame in bytes; 1500 when absent.");
        var speed = new Field<int>("speed", new CountRule(1, int.MaxValue), "virtio net: what its driver is told of its speed, in Mbit/s; unknown when absent. It slows nothing.");
        var vlan = new Field<int>("vlan", new CountRule(1, SwitchPort.MaxVlan), "virtio net: the VLAN that its port of the switch is of; frames pass with their tags when absent.");
        var offloads = new Field<bool>("offloads", new BooleanRule(), "virtio net: whether checksums and long segments may be left to it, and are left to its driver; true when absent.");
        var ownVfs = new Field<int>("vfs", new CountRule(0, MaxVirtualFunctions), "virtio blk, net and rng: the number of virtual functions, each of them bound to vfio-pci; 0 when absent.");
        var vfFile = new Field<string>("vf_file", new PathRule(baseFolder, PathKind.File), "virtio blk in a file with 'vfs': the file of each virtual function's disk, with one % in the path that stands for its number, from 0.");
        var admin = new Field<AdminJudgement>("admin", new ChoiceRule<AdminJudgement>(), "virtio blk, net and rng with 'vfs': how the administration queue judges commands: linux, strict for the standard to the letter, or off for none; linux when absent.");
        Field[] ofNet = [place, mac, queues, mtu, speed, vlan, packed, offloads];
        Field[] ofBlock = [.. ofDisk, vfFile];
        Field[] ofVirtio = [.. ofBlock.Union(ofNet), ownVfs, admin, transitional, vectors];
        // The provider of each key, by its name on the bus.
        (Field<string> Key, string Provider)[] providers = [(simulated, "simulated"), (vfioUser, "vfio-user"), (host, "host")];
        var functions = new Field<IReadOnlyList<ManifestValue<FunctionManifest>>>(
            "functions",
            new ListRule<FunctionManifest>(new SectionRule<FunctionManifest>("a function", [functionName, simulated, vfioUser, host, virtio, provider, providersFunction, functionDriver, .. ofVirtio], [simulated, vfioUser, host, virtio, provider], r =>
            {
                var theName = r.Read(functionName);
                var theDriver = r.Read(functionDriver);
                var theFunctions = providers.Select(p => (p.Provider, Function: r.Read(p.Key))).Where(p => p.Function is not null).ToArray();
                var theProvider = r.Read(provider);
                var theOther = r.Read(providersFunction);
                if (theProvider is { } named && !r.Has(providersFunction))
                    r.Report(named, $"'{named.Value}' says who makes the function, and not which. Add '{providersFunction.Name}', {providersFunction.Description}");
                if (theOther is { } alone && !r.Has(provider))
                    r.Report(alone, $"'{alone.Value}' says which function it is, and not who makes it. Add '{provider.Name}', {provider.Description}");
                var theVirtio = ReadVirtio(r, theName);
                if (theName is not { } n)
                    return null;
                if (theVirtio is not null)
                    return new FunctionManifest(n, VirtioFunctions.KindName, n, theDriver) { Virtio = theVirtio };
                if (theProvider is { } p && theOther is { } o)
                    return new FunctionManifest(n, p, o, theDriver) { ProviderPlace = p.Place };
                return theFunctions is [var (own, function), ..] ? new FunctionManifest(n, own, function!.Value, theDriver) : null;
            })),
            "PCI functions: virtio devices, simulated ones, served by another process, of this host, or of a module's provider.");

        VirtioManifest? ReadVirtio(SectionReader r, ManifestValue<string>? theName)
        {
            var theTransitional = r.Read(transitional);
            var theVectors = r.Read(vectors);
            if (r.Read(virtio) is not { } type)
            {
                if (!r.Has(virtio) && Array.Find(ofVirtio, r.Has) is { } alone)
                    r.Report(alone, $"only a virtio device has '{alone.Name}'. Remove the key, or make the function one with 'virtio'.");
                return null;
            }

            DiskManifest? disk = null;
            if (type.Value == VirtioType.Blk)
            {
                disk = ReadDisk(r, theName, r.Absent(""));
                Field[] places = [image, memory, nothing];
                if (places.Count(r.Has) != 1)
                    r.Report(type, $"a disk has exactly one of file, memory, null; this has {(places.Any(r.Has) ? string.Join(", ", places.Where(r.Has).Select(static f => f.Name)) + ". Keep one." : "none. Add one.")}");
            }

            var net = type.Value == VirtioType.Net ? new NetManifest(r.Read(place), r.Read(mac), r.Read(queues), r.Read(mtu), r.Read(speed), r.Read(vlan), r.Read(packed), r.Read(offloads)) : null;
            var theVfs = r.Read(ownVfs);
            var theVfFile = r.Read(vfFile);
            var theAdmin = r.Read(admin);
            Field[] own = type.Value switch
            {
                VirtioType.Blk => [.. ofBlock, ownVfs, admin],
                VirtioType.Net => [.. ofNet, ownVfs, admin],
                VirtioType.Rng => [ownVfs, admin],
                _ => [],
            };
            foreach (var foreign in ofBlock.Union(ofNet).Append(ownVfs).Append(admin).Except(own).Where(r.Has))
                r.Report(foreign, $"{(ofBlock.Contains(foreign) ? ofNet.Contains(foreign) ? "only a disk or a network device has" : "only a disk has" : ofNet.Contains(foreign) ? "only a network device has" : "no such device has virtual functions, and so no")} '{foreign.Name}', and this is a virtio {type.Value.ToString().ToLowerInvariant()}. Remove the key.");
            if (theVfs is { Value: > 0 } && theTransitional is { Value: true } both)
                r.Report(both, "a transitional function has no virtual functions, which are modern all. Remove the key, or 'vfs'.");
            if (disk?.Backing.Value is DiskBacking.File onFile)
                CheckVirtualFiles(r, type, disk, onFile, theVfs?.Value ?? 0, theVfFile);
            else if (type.Value == VirtioType.Blk && theVfFile is { } without && !r.Has(image))
                r.Report(without, "the disks of virtual functions are where that of the physical one is, and it is in no file. Remove the key, or add 'file'.");
            return new VirtioManifest(type, disk, net, theVfs, theVfFile, theAdmin, theTransitional, theVectors);
        }

        // Here, as for the disk itself, so that what is wrong with any is told at once.
        void CheckVirtualFiles(SectionReader r, ManifestValue<VirtioType> type, DiskManifest disk, DiskBacking.File file, int count, ManifestValue<string>? files)
        {
            if (files is not { } pattern)
            {
                if (count > 0 && !r.Has(vfFile))
                    r.Report(type, "a disk in a file whose function has virtual ones needs a file for each of these. Add 'vf_file', a path with one % for the number.");
                return;
            }

            if (count == 0)
                r.Report(pattern, "there are no virtual functions that have disks. Remove the key, or add 'vfs'.");
            else if (!VirtualMedia.IsPattern(pattern))
                r.Report(pattern, $"{pattern.Value} has not one % in it, which stands for the number of the virtual function. Write one, for example disk-%.img.");
            else if (Enumerable.Range(0, count).Select(i => FileBackend.FindFault(VirtualMedia.PathOf(pattern, i), disk.ReadOnly, file.IsRaw, file.IsDirect)).FirstOrDefault(static f => f is not null) is { } fault)
                r.Report(pattern, fault.Message);
        }

        var module = new Field<string>("module", word, "the creator's module name.", required: true);
        var partName = new Field<string>("name", word, "the kind of part.", required: true);
        var count = new Field<int>("count", new CountRule(1, MaxDevices), $"how many devices, with ids from 0; 1 when absent. All groups together have at most {MaxDevices}.");
        var parent = new Field<string>("parent", name, "the adapter above them; a device at the root, named like the module, when absent.");
        var devices = new Field<IReadOnlyList<ManifestValue<DeviceManifest>>>(
            "devices",
            new ListRule<DeviceManifest>(new SectionRule<DeviceManifest>("a group of devices", [module, partName, count, parent], [], r =>
            {
                var theModule = r.Read(module);
                var theName = r.Read(partName);
                var theCount = r.Read(count, 1);
                var theParent = r.Read(parent);
                return theModule is { } m && theName is { } n ? new DeviceManifest(m, n, theCount, theParent) : null;
            })),
            "plain devices on the virtual bus, for tests and scale.");

        var modules = new Field<ModulesManifest>("modules", new ModulesRule(baseFolder), "a folder of driver modules besides the program's own; or a list of such folders, each with a '/', and of modules that are loaded at the start.");

        return new SectionRule<FabricManifest>("a manifest", [adapters, switches, joins, disks, serials, functions, devices, modules], [], r => new FabricManifest(
            file,
            [.. r.Read(adapters, []).Value.Select(v => v.Value)],
            [.. r.Read(switches, []).Value.Select(v => v.Value)],
            [.. r.Read(joins, []).Value.Select(v => v.Value)],
            [.. r.Read(disks, []).Value.Select(v => v.Value)],
            [.. r.Read(serials, []).Value.Select(v => v.Value)],
            [.. r.Read(functions, []).Value.Select(v => v.Value)],
            [.. r.Read(devices, []).Value.Select(v => v.Value)],
            r.Read(modules, ModulesManifest.None)));
    }

    /// <summary>Reads a file.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="VirtbusException">The file can't be read.</exception>
    /// <exception cref="ManifestException">The manifest is wrong.</exception>
    public static FabricManifest ReadFile(string path)
    {
        string text;
        ArgumentNullException.ThrowIfNull(path);
        // The kernel would take what is before it for the whole name.
        if (path.Contains('\0', StringComparison.Ordinal))
            throw new VirtbusException(Errno.EINVAL, $"The manifest's name '{path.Replace("\0", "\\0", StringComparison.Ordinal)}' has a NUL character, which the name of no file has. Name a file.");
        ThrowIfNoFile(path);
        try
        {
            text = ReadBounded(path);
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new VirtbusException(Errno.ENOENT, $"Manifest {path} does not exist. Name a file, or none for the default manifest.", e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new VirtbusException(Errno.EACCES, $"Manifest {path} can't be read: {e.Message}", e);
        }
        return ReadText(text, path);
    }

    // Before it is opened: a pipe makes who opens it wait for a writer, and a device may have no end.
    private static void ThrowIfNoFile(string path)
    {
        if (!FilePermissions.TryGet(path, follow: true, out var found, out _) || found.Kind == FileKind.Regular)
            return;
        if (found.Kind == FileKind.Directory)
            throw new VirtbusException(Errno.EISDIR, $"Manifest {path} is a folder. Name a file in it, or none for the default manifest.");
        var what = found.Kind switch
        {
            FileKind.Pipe => "a pipe",
            FileKind.Socket => "a socket",
            FileKind.CharacterDevice or FileKind.BlockDevice => "a device",
            _ => "no regular file",
        };
        throw new VirtbusException(Errno.EINVAL, $"Manifest {path} is {what}. Write the manifest to a file and name that.");
    }

    // The size is not asked for: a file may grow while it is read, and some have none (/proc).
    private static string ReadBounded(string path)
    {
        using var file = File.OpenRead(path);
        using var bytes = new MemoryStream();
        var buffer = new byte[64 << 10];
        while (file.Read(buffer) is > 0 and var read)
        {
            bytes.Write(buffer, 0, read);
            if (bytes.Length > MaxBytes)
                throw new VirtbusException(Errno.EINVAL, $"Manifest {path} has more than {MaxBytes} bytes, which is the most that a manifest has. 'count' makes many devices with few words.");
        }
        bytes.Position = 0;
        using var reader = new StreamReader(bytes);
        return reader.ReadToEnd();
    }

    /// <summary>Reads a text.</summary>
    /// <param name="text">The YAML.</param>
    /// <param name="file">The file's name as messages show it; relative paths in the manifest start at its folder.</param>
    /// <exception cref="ManifestException">The manifest is wrong.</exception>
    public static FabricManifest ReadText(string text, string file)
    {
        var reader = new ManifestReader(file);
        var manifest = reader.Read(text);
        if (reader._errors.Count > 0 || manifest is null)
            throw new ManifestException(file, [.. reader._errors.OrderBy(e => e.At.Line).ThenBy(e => e.At.Column)]);
        return manifest;
    }

    private FabricManifest? Read(string text)
    {
        var root = ManifestYaml.Parse(text, _errors);
        if (root is null && _errors.Count > 0)
            return null;
        // More likely a file that was cut, or the wrong one, than a wish for a fabric with nothing in it.
        if (root is null or ScalarNode { IsNull: true })
        {
            _errors.Add(new ManifestError(root is ScalarNode { Text.Length: > 0 } ? root.At : new ManifestPosition(1, 1), "", "there is nothing in this manifest. Write what the fabric has, or {} for a fabric with nothing in it."));
            return null;
        }

        var folder = Path.GetDirectoryName(Path.GetFullPath(_file)) ?? "/";
        if (!Rules(folder, _file).TryRead(root, "", _errors, out var manifest))
            return null;
        CheckNames(manifest);
        CheckReferences(manifest);
        CheckFiles(manifest);
        CheckProfiles(manifest);
        CheckNumber(manifest);
        return manifest;
    }

    private void CheckNames(FabricManifest manifest)
    {
        var named = new Dictionary<string, ManifestPosition>();
        foreach (var name in (ManifestValue<string>[])[
            .. manifest.Adapters.Select(a => a.Name),
            .. manifest.AllFunctions().Select(f => f.Name)])
        {
            if (!named.TryAdd(name, name.At))
                Add(name, $"'{name}' is the name of the object at line {named[name].Line} already. Choose another.");
        }
        var switches = new Dictionary<string, ManifestPosition>();
        var taps = new Dictionary<string, ManifestPosition>();
        foreach (var one in manifest.Switches)
        {
            if (!switches.TryAdd(one.Name, one.Name.At))
                Add(one.Name, $"'{one.Name}' is the name of the switch at line {switches[one.Name].Line} already. Choose another.");
        }
        var joined = new Dictionary<string, ManifestPosition>();
        foreach (var name in manifest.Joins.Select(static j => j.Interface))
        {
            if (!joined.TryAdd(name, name.At))
                Add(name, $"interface '{name}' is joined at line {joined[name].Line} already. Remove one of the two.");
        }
        foreach (var tap in manifest.Switches.Select(static s => s.Tap).Concat(manifest.Adapters.Select(static a => a.Tap)).Concat(manifest.Joins.Select(static j => j.Tap)).OfType<ManifestValue<string>>())
        {
            if (!taps.TryAdd(tap, tap.At))
                Add(tap, $"the TAP device '{tap}' is that of line {taps[tap].Line} already. Name another.");
        }
        var groups = new Dictionary<string, ManifestPosition>();
        foreach (var group in manifest.Devices)
        {
            var match = $"{group.Module}.{group.Name}";
            if (match.Length > MaxAuxiliaryName)
                Add(group.Name, $"'{match}' has {match.Length} characters. Module and name have at most {MaxAuxiliaryName} together, with the dot.");
            else if (!groups.TryAdd(match, group.Name.At))
                Add(group.Name, $"'{match}' is made at line {groups[match].Line} already. Give that group a higher count.");
        }
    }

    private void CheckReferences(FabricManifest manifest)
    {
        var adapters = new Dictionary<string, AdapterManifest>();
        foreach (var adapter in manifest.Adapters)
            adapters.TryAdd(adapter.Name, adapter);
        foreach (var name in manifest.Disks.Select(d => d.Adapter).TakeWhile(_ => _errors.Count < ManifestError.MaxKept))
        {
            if (!adapters.TryGetValue(name, out var adapter))
                AddNoAdapter(name, adapters.Keys);
            else if (!adapter.Parts.Value.HasFlag(AdapterParts.Vdpa))
                Add(name, $"'{name}' has no vdpa part. Add vdpa to its parts at line {adapter.Parts.At.Line}, or name another adapter.");
        }
        foreach (var group in manifest.Devices.TakeWhile(_ => _errors.Count < ManifestError.MaxKept))
        {
            if (group.Parent is { } parent && !adapters.ContainsKey(parent))
                AddNoAdapter(parent, adapters.Keys);
        }
    }

    private void CheckNumber(FabricManifest manifest)
    {
        var sum = 0L;
        foreach (var group in manifest.Devices)
        {
            var before = sum;
            sum += group.Count.Value;
            if (before <= MaxDevices && sum > MaxDevices)
                Add(group.Count, $"with this group the manifest makes {sum} devices. All groups together have at most {MaxDevices}; lower the counts.");
        }
    }

    private void CheckFiles(FabricManifest manifest)
    {
        var files = new Dictionary<string, (string Name, int Line, bool IsReadOnly)>();
        foreach (var disk in manifest.AllDisks())
        {
            if (disk.Backing.Value is DiskBacking.File { Path: var path })
                Claim(path, disk.Name, disk.ReadOnly, disk.Backing.At, disk.Backing.Path);
        }
        foreach (var function in manifest.Functions)
        {
            if (function.Virtio is not { VirtualFiles: { } pattern, VirtualFunctions: { } count, Disk: { } disk } || !VirtualMedia.IsPattern(pattern))
                continue;
            for (var i = 0; i < count && Claim(VirtualMedia.PathOf(pattern, i), ManifestFunction.NameOf(function.Name, i), disk.ReadOnly, pattern.At, pattern.Path); i++)
            {
            }
        }

        bool Claim(string path, string name, bool isReadOnly, ManifestPosition at, string place)
        {
            if (files.TryAdd(path, (name, at.Line, isReadOnly)) || files[path] is var other && isReadOnly && other.IsReadOnly)
                return true;
            if (_errors.Count < ManifestError.MaxKept)
                _errors.Add(new ManifestError(at, place, $"{path} is the file of disk '{other.Name}' at line {other.Line} already. Name another, or make both read-only."));
            return false;
        }
    }

    private void CheckProfiles(FabricManifest manifest)
    {
        foreach (var adapter in manifest.Adapters)
        {
            var seen = new HashSet<int>();
            foreach (var profile in adapter.Profiles)
            {
                var number = profile.Value.Number;
                if (!seen.Add(number))
                    Add(number, $"virtual function {number.Value} has a profile already. Remove one of the two.");
                else if (number >= adapter.VirtualFunctions)
                    Add(number, $"adapter {adapter.Name} enables {adapter.VirtualFunctions.Value} virtual functions, so there is no number {number.Value}. Raise 'vfs', or remove the profile.");
            }
        }
    }

    private void AddNoAdapter(ManifestValue<string> name, IReadOnlyCollection<string> adapters) =>
        Add(name, $"'{name}' is no adapter of this manifest.{Suggestion.For(name, adapters.Take(MaxNamed))} {(adapters.Count == 0 ? "It has none; add one under 'adapters'." : $"Its adapters are {string.Join(", ", adapters.Take(MaxNamed))}{(adapters.Count > MaxNamed ? " …" : "")}.")}");

    private void Add<T>(ManifestValue<T> at, string message)
    {
        if (_errors.Count < ManifestError.MaxKept)
            _errors.Add(new ManifestError(at.At, at.Path, message));
    }
}
