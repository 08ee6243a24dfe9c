using Microsoft.Extensions.Logging;
using Virtbus.Block;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Subsystems.Block;
using Virtbus.Transports.Nbd;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// The disks that are offered by NBD. Those of an adapter as attributes of their profiles say it, and in class <c>block</c> as long as they are offered; other
/// disks of that class by an attribute of their own. Those of one address are exports of one server. Safe from any thread; one change at a time.
/// </summary>
internal sealed class NbdExports : IAsyncDisposable
{
    /// <summary>What stands for a socket of the disk's name in the runtime folder.</summary>
    internal const string OwnSocket = "unix";

    private static readonly ProfileField<string> Address = ProfileFields.Text(
        "nbd", "where it is offered by NBD: 'unix' for NAME.nbd in the runtime folder, the absolute path of a socket, or an IP address and port", IsAddress, change: FieldChange.WhileActive);
    private static readonly ProfileField<string> ExportName = ProfileFields.Text("nbd_name", "what NBD clients ask for", static t => t.Length <= 255, change: FieldChange.WhileActive);
    private static readonly ProfileField<bool> ReadOnly = ProfileFields.Flag("nbd_readonly", change: FieldChange.WhileActive);
    private static readonly ProfileField<bool> Insecure = ProfileFields.Flag("nbd_insecure", change: FieldChange.WhileActive);

    private readonly ProvisioningContext _context;
    private readonly SemaphoreSlim _turn = new(1, 1);
    private readonly ILogger _log;
    private readonly Dictionary<string, NbdServer> _servers = [];
    // Replaced as a whole.
    private volatile IReadOnlyDictionary<string, Open> _open = new Dictionary<string, Open>();

    public NbdExports(ProvisioningContext context)
    {
        _context = context;
        _log = context.LoggerFactory.CreateLogger("Virtbus.Nbd");
        context.Fabric.Tree.AddDeviceGroup(new AttributeGroup(new ObjectAttribute<Device>(
            "nbd",
            d => _open.GetValueOrDefault(d.DevPath)?.Text ?? "",
            (d, text, _) => new ValueTask(SetAsync((BlockDevice)d, text)),
            d => d is BlockDevice disk && !_open.Values.Any(o => o.Device == disk && o.IsOwnDevice),
            isString: true)));
    }

    /// <summary>The attributes of profiles.</summary>
    public static readonly IReadOnlyList<ProfileField> Fields = [Address, ExportName, ReadOnly, Insecure];

    /// <summary>The sockets, as the fabric lists them.</summary>
    public IEnumerable<DeviceSocket> Sockets => _open.OrderBy(static o => o.Key, StringComparer.Ordinal).Select(static o => new DeviceSocket(o.Value.Name, "nbd", o.Value.Export, o.Value.Device, o.Value.Device));

    /// <summary>Whether a text says where a disk is offered.</summary>
    public static bool IsAddress(string text)
    {
        if (text == OwnSocket || text.StartsWith('/'))
            return true;
        try
        {
            NbdAddress.OfTcp(text, insecure: true);
            return true;
        }
        catch (VirtbusException)
        {
            return false;
        }
    }

    /// <summary>Refuses what does not go together.</summary>
    /// <exception cref="VirtbusException">EINVAL: attributes of an export without one, or an address that others can reach and nobody asked for.</exception>
    public static void Check(FunctionProfile profile)
    {
        if (!profile.IsSet(Address))
        {
            if (Fields.FirstOrDefault(f => f != Address && profile.IsSet(f)) is { } alone)
                throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}': only a disk that is offered by NBD has '{alone}'. Take it away, or say where: nbd=unix.") { Field = alone.Name };
            return;
        }

        try
        {
            AddressOf(profile, "/");
        }
        catch (VirtbusException e)
        {
            throw new VirtbusException(e.Errno, $"Function '{profile.Name}': {e.Message.Replace("'insecure'", "nbd_insecure=true", StringComparison.Ordinal)}", e) { Field = Address.Name };
        }
    }

    /// <summary>What an attribute of these is when nobody said so; null for what its declaration says.</summary>
    public static string? DescribeStandard(FunctionProfile profile, ProfileField field) => field == ExportName && profile.IsSet(Address) ? profile.Name : null;

    /// <summary>Offers a disk of an adapter, if its profile says so and it is not offered.</summary>
    /// <param name="profile">The disk's profile.</param>
    /// <param name="medium">The disk; it stays open until <see cref="CloseAsync"/> has ended.</param>
    /// <exception cref="VirtbusException">What the host answers of the address; EEXIST: an export has the name there.</exception>
    public async ValueTask OpenAsync(FunctionProfile profile, IBlockBackend medium)
    {
        await _turn.WaitAsync();
        try
        {
            if (!profile.IsSet(Address) || _open.ContainsKey(profile.Name))
                return;
            var subsystem = BlockSubsystem.Of(_context.Fabric);
            // The vDPA device has the disk's own name.
            var device = await subsystem.RegisterAsync(parent: null, profile.Name + "-nbd", medium, new BlockDeviceOptions { HasForcedWrites = true });
            try
            {
                await OfferAsync(profile.Name, device, AddressOf(profile, _context.RuntimeFolder), profile.TryGet(ExportName, out var name) ? name : profile.Name, profile.Get(ReadOnly), text: null);
            }
            catch
            {
                await subsystem.UnregisterAsync(device);
                throw;
            }
        }
        catch (VirtbusException e)
        {
            throw new VirtbusException(e.Errno, e.Message, e) { Field = Address.Name };
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Offers a disk of an adapter as its profile says now.</summary>
    /// <exception cref="VirtbusException">As <see cref="OpenAsync"/>; the disk is offered as before then, where that is possible.</exception>
    public async ValueTask ChangeAsync(FunctionProfile before, FunctionProfile after, IBlockBackend medium)
    {
        await CloseAsync(after.Name);
        try
        {
            await OpenAsync(after, medium);
        }
        catch (VirtbusException)
        {
            await OpenAsync(before, medium);
            throw;
        }
    }

    /// <summary>Offers a disk no more; ends when no client has a request in it. One that is not offered is no error.</summary>
    /// <param name="key">The name of a disk of an adapter; of another one its device's path.</param>
    public async ValueTask CloseAsync(string key)
    {
        await _turn.WaitAsync();
        try
        {
            if (!_open.TryGetValue(key, out var open))
                return;
            _open = _open.Where(o => o.Key != key).ToDictionary();
            open.Device.Endpoint = null;
            await open.Server.RemoveAsync(open.Export);
            await StopUnusedAsync(open.Server);
            open.User.Dispose();
            if (open.IsOwnDevice)
                await BlockSubsystem.Of(_context.Fabric).UnregisterAsync(open.Device);
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Closes what is still offered.</summary>
    public async ValueTask DisposeAsync()
    {
        foreach (var key in _open.Keys)
            await CloseAsync(key);
    }

    private static NbdAddress AddressOf(FunctionProfile profile, string folder) => AddressOf(profile.Get(Address), profile.Name, folder, profile.Get(Insecure));

    private static NbdAddress AddressOf(string text, string name, string folder, bool insecure) => text switch
    {
        OwnSocket => NbdAddress.OfSocket(Path.Combine(folder, name + ".nbd")),
        ['/', ..] => NbdAddress.OfSocket(text),
        _ => NbdAddress.OfTcp(text, insecure),
    };

    // Of a disk that a driver registered: an address with words behind it; nothing to close it.
    private async Task SetAsync(BlockDevice device, string text)
    {
        var words = text.Split(' ', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        var name = device.Name;
        foreach (var word in words.Skip(1))
        {
            if (word.StartsWith("name=", StringComparison.Ordinal))
                name = word["name=".Length..];
            else if (word is not ("readonly" or "insecure"))
                throw new VirtbusException(Errno.EINVAL, $"{device.DevPath}/nbd: '{word}' is none of readonly, insecure and name=NAME. Write an address and these behind it.");
        }

        var address = words.Length > 0 ? AddressOf(words[0], device.Name, _context.RuntimeFolder, words.Contains("insecure")) : null;
        await CloseAsync(device.DevPath);
        if (address is null)
            return;
        await _turn.WaitAsync();
        try
        {
            await OfferAsync(device.DevPath, device, address, name, words.Contains("readonly"), string.Join(' ', words));
            device.Gone += (_, _) => _ = CloseAsync(device.DevPath).AsTask();
        }
        finally
        {
            _turn.Release();
        }
    }

    // With the turn.
    private async ValueTask OfferAsync(string key, BlockDevice device, NbdAddress address, string name, bool readOnly, string? text)
    {
        var user = device.Open("nbd");
        try
        {
            var server = Serve(address);
            var export = new NbdExport(name, user, readOnly, text is null ? $"disk {key}" : $"disk {device.Name}");
            try
            {
                server.Add(export);
            }
            catch
            {
                await StopUnusedAsync(server);
                throw;
            }

            device.Endpoint = export;
            _open = _open.Append(new(key, new Open(server, export, device, user, text))).ToDictionary();
        }
        catch
        {
            user.Dispose();
            throw;
        }
    }

    private NbdServer Serve(NbdAddress address)
    {
        if (_servers.TryGetValue(address.ToString(), out var there))
            return there;
        var server = new NbdServer(address, _log, _context.Fabric.Time);
        server.Start();
        _servers.Add(address.ToString(), server);
        return server;
    }

    private async ValueTask StopUnusedAsync(NbdServer server)
    {
        if (server.Exports.Count > 0)
            return;
        _servers.Remove(_servers.First(s => s.Value == server).Key);
        await server.StopAsync();
    }

    // The text is what was written to the attribute of the disk; null for one of an adapter.
    private sealed record Open(NbdServer Server, NbdExport Export, BlockDevice Device, BlockUser User, string? Text)
    {
        public bool IsOwnDevice => Text is null;

        public string Name => IsOwnDevice ? Device.Name[..^"-nbd".Length] : Device.Name;
    }
}
