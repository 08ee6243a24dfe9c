using Microsoft.Extensions.Logging;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// The network interfaces that are joined to switches and to TAP devices of the host, whatever drivers they have. A join is of an interface's name, and lasts
/// until it is taken away: with the interface its port goes, and comes again with the next one of that name. Safe from any thread; one change at a time.
/// </summary>
internal sealed partial class InterfaceJoins : IClassObserver
{
    private const string Folder = "/kernel/joins";

    private readonly ProvisioningContext _context;
    private readonly Func<NetDevice, string?> _networkOf;
    private readonly Func<IEnumerable<(string, string)>> _links;
    private readonly NetSubsystem _subsystem;
    private readonly ILogger _log;
    private readonly SemaphoreSlim _turn = new(1, 1);
    // Replaced as a whole.
    private volatile IReadOnlyList<Entry> _all = [];

    /// <summary>Makes it, and shows it in the tree.</summary>
    /// <param name="context">Fabric and switches.</param>
    /// <param name="networkOf">What an interface's hardware is on, by the names of <paramref name="links"/>; null for a network of its own.</param>
    /// <param name="links">What else is linked: switches by <see cref="SwitchNode"/>, TAP devices by <see cref="TapNode"/>, and adapters.</param>
    public InterfaceJoins(ProvisioningContext context, Func<NetDevice, string?> networkOf, Func<IEnumerable<(string, string)>> links)
    {
        _context = context;
        _networkOf = networkOf;
        _links = links;
        _subsystem = NetSubsystem.Of(context.Fabric);
        _log = context.LoggerFactory.CreateLogger("Virtbus.Net");
        ObjectAttribute<InterfaceJoins>[] files =
        [
            new("add", null, (j, line, _) => j.AddAsync(ParseLine(line), mustBeThere: true), isString: true),
            new("list", j => string.Join('\n', j._all.Select(static e => $"{e.Join.Interface} {e.Join.Line} {e.State}"))),
            new("remove", null, (j, name, _) => j.RemoveAsync(name), isString: true),
        ];
        context.Fabric.Tree.AddKernelDirectory(new TreeDirectory("joins", () => files.Select(a => new TreeFile($"{Folder}/{a.Name}", this, a))));
        context.Fabric.Tree.AddDeviceGroup(new AttributeGroup(new ObjectAttribute<Device>(
            "join",
            d => _all.FirstOrDefault(e => e.Join.Interface == d.Name)?.Join.Line ?? "",
            (d, line, _) => line.Length == 0 ? RemoveAsync(d.Name) : AddAsync(InterfaceJoin.Parse(d.DevPath + "/join", d.Name, line), mustBeThere: true),
            static d => d is NetDevice,
            isString: true)));
    }

    /// <summary>All joins, by the interface's name, with what becomes of each: <c>joined</c>, <c>waiting</c> for the interface, or why it is not joined.</summary>
    public IEnumerable<(InterfaceJoin Join, string State)> All => _all.OrderBy(static e => e.Join.Interface, StringComparer.Ordinal).Select(static e => (e.Join, e.State));

    /// <summary>The node of a switch.</summary>
    public static string SwitchNode(string name) => "switch " + name;

    /// <summary>The node of a TAP device.</summary>
    public static string TapNode(string name) => "tap " + name;

    /// <summary>Joins an interface.</summary>
    /// <param name="join">The join.</param>
    /// <param name="mustBeThere">Whether an interface that is not there is an error; else it is joined when it comes.</param>
    /// <exception cref="VirtbusException">
    /// ENOENT: no such interface; EBUSY: it is joined already, or the TAP device is another one's; ELOOP: frames would go round; what the host or the driver says.
    /// </exception>
    public async ValueTask AddAsync(InterfaceJoin join, bool mustBeThere)
    {
        await _turn.WaitAsync();
        try
        {
            if (Find(join.Interface) is { } there)
                throw new VirtbusException(Errno.EBUSY, $"Interface {join.Interface} is joined to {there.Join.Text} already. Take it off first: virtbus interface leave {join.Interface}");
            var entry = new Entry(join);
            if (_subsystem.Class.TryGetDevice(join.Interface, out var device))
            {
                await ConnectAsync(entry, (NetDevice)device);
            }
            else if (mustBeThere)
            {
                throw new VirtbusException(
                    Errno.ENOENT, $"There is no interface '{join.Interface}'.{Suggestion.For(join.Interface, _subsystem.Class.Devices.Select(static d => d.Name))} 'virtbus interface list' shows them.");
            }

            _all = [.. _all, entry];
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Takes an interface off what it is joined to.</summary>
    /// <param name="name">The interface, which need not be there.</param>
    /// <exception cref="VirtbusException">ENOENT: it is not joined.</exception>
    public async ValueTask RemoveAsync(string name)
    {
        await _turn.WaitAsync();
        try
        {
            var entry = Find(name)
                ?? throw new VirtbusException(Errno.ENOENT, $"Interface '{name}' is joined to nothing.{Suggestion.For(name, _all.Select(static e => e.Join.Interface))} 'virtbus interface list' shows what is.");
            _all = [.. _all.Where(e => e != entry)];
            await DisconnectAsync(entry);
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Takes all away.</summary>
    public async ValueTask ClearAsync()
    {
        await _turn.WaitAsync();
        try
        {
            foreach (var entry in _all)
                await DisconnectAsync(entry);
            _all = [];
        }
        finally
        {
            _turn.Release();
        }
    }

    async ValueTask IClassObserver.DeviceAddedAsync(Device device)
    {
        await _turn.WaitAsync();
        try
        {
            if (Find(device.Name) is { Joined: null } entry)
                await ConnectAsync(entry, (NetDevice)device);
        }
        catch (VirtbusException e)
        {
            NotJoined(_log, device.Name, e.Message);
        }
        finally
        {
            _turn.Release();
        }
    }

    async ValueTask IClassObserver.DeviceRemovedAsync(Device device)
    {
        await _turn.WaitAsync();
        try
        {
            if (Find(device.Name) is { } entry && (entry.Joined is null || entry.Joined.Device == device))
                await DisconnectAsync(entry);
        }
        finally
        {
            _turn.Release();
        }
    }

    // The interface's name, and behind it what its attribute takes.
    private static InterfaceJoin ParseLine(string line)
    {
        var blank = line.IndexOf(' ', StringComparison.Ordinal);
        return blank > 0
            ? InterfaceJoin.Parse(Folder + "/add", line[..blank], line[(blank + 1)..])
            : throw new VirtbusException(Errno.EINVAL, $"{Folder}/add: '{line}' is no join. Write an interface's name, and behind it switch=NAME or tap=NAME.");
    }

    private Entry? Find(string name) => _all.FirstOrDefault(e => e.Join.Interface == name);

    private async ValueTask ConnectAsync(Entry entry, NetDevice device)
    {
        try
        {
            Check(entry.Join, device);
            entry.Joined = await JoinedInterface.CreateAsync(device, entry.Join, _context.Switches);
            entry.Fault = null;
        }
        catch (VirtbusException e)
        {
            entry.Fault = e.Message;
            throw;
        }
    }

    private static async ValueTask DisconnectAsync(Entry entry)
    {
        var joined = entry.Joined;
        entry.Joined = null;
        entry.Fault = null;
        if (joined is not null)
            await joined.DisposeAsync();
    }

    // A frame that is for all goes round for ever where there are two ways, as in any network of switches without a protocol against that.
    private void Check(InterfaceJoin join, NetDevice device)
    {
        var links = _links().Concat(_all.Where(static e => e.Joined is not null).Select(e => (NodeOf(e.Joined!.Device), TargetOf(e.Join)))).ToList();
        var target = TargetOf(join);
        if (join.Tap is { } tap && links.Find(l => l.Item1 == target || l.Item2 == target) is { Item1: { } one, Item2: { } other })
            throw new VirtbusException(Errno.EBUSY, $"TAP device '{tap}' is that of {(one == target ? other : one)} already. Name another.") { Field = "tap" };
        HashSet<string> reached = [NodeOf(device)];
        while (links.Find(l => reached.Contains(l.Item1) != reached.Contains(l.Item2)) is { Item1: { } from, Item2: { } to })
            reached.UnionWith([from, to]);
        if (reached.Contains(target))
        {
            throw new VirtbusException(
                Errno.ELOOP, $"Interface {join.Interface}: its hardware is on {join.Text.Split(',')[0]} already, or there by another way, so frames would go round for ever. Join it to another switch.") { Field = "switch" };
        }
    }

    private string NodeOf(NetDevice device) => _networkOf(device) ?? "interface " + device.Name;

    private static string TargetOf(InterfaceJoin join) => join.Switch is { } place ? SwitchNode(place) : TapNode(join.Tap!);

    [LoggerMessage(650, LogLevel.Warning, "Interface {Interface} is not joined: {Reason}")]
    private static partial void NotJoined(ILogger log, string @interface, string reason);

    // With the turn, but for what is shown.
    private sealed class Entry(InterfaceJoin join)
    {
        private volatile JoinedInterface? _joined;
        private volatile string? _fault;

        public InterfaceJoin Join => join;

        public JoinedInterface? Joined
        {
            get => _joined;
            set => _joined = value;
        }

        public string? Fault
        {
            get => _fault;
            set => _fault = value;
        }

        public string State => Joined is not null ? "joined" : Fault ?? "waiting";
    }
}
