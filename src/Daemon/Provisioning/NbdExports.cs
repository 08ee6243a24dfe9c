using Microsoft.Extensions.Logging;
using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Subsystems.Block;
using Virtbus.Transports.Nbd;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// The disks that are offered by NBD, as attributes of their profiles say it: each is in class <c>block</c> meanwhile, and those of one address are
/// exports of one server. Safe from any thread; one change at a time.
/// </summary>
internal sealed class NbdExports(ProvisioningContext context)
{
    /// <summary>What stands for a socket of the disk's name in the runtime folder.</summary>
    internal const string OwnSocket = "unix";

    private static readonly ProfileField<string> Address = ProfileFields.Text(
        "nbd", "where it is offered by NBD: 'unix' for NAME.nbd in the runtime folder, the absolute path of a socket, or an IP address and port", IsAddress, change: FieldChange.WhileActive);
    private static readonly ProfileField<string> ExportName = ProfileFields.Text("nbd_name", "what NBD clients ask for", static t => t.Length <= 255, change: FieldChange.WhileActive);
    private static readonly ProfileField<bool> ReadOnly = ProfileFields.Flag("nbd_readonly", change: FieldChange.WhileActive);
    private static readonly ProfileField<bool> Insecure = ProfileFields.Flag("nbd_insecure", change: FieldChange.WhileActive);

    private readonly SemaphoreSlim _turn = new(1, 1);
    private readonly ILogger _log = context.LoggerFactory.CreateLogger("Virtbus.Nbd");
    private readonly Dictionary<string, NbdServer> _servers = [];
    // Replaced as a whole.
    private volatile IReadOnlyDictionary<string, Open> _open = new Dictionary<string, Open>();

    /// <summary>The attributes.</summary>
    public static readonly IReadOnlyList<ProfileField> Fields = [Address, ExportName, ReadOnly, Insecure];

    /// <summary>The sockets, as the fabric lists them.</summary>
    public IEnumerable<DeviceSocket> Sockets => _open.OrderBy(static o => o.Key, StringComparer.Ordinal).Select(static o => new DeviceSocket(o.Key, "nbd", o.Value.Export, o.Value.Device, o.Value.Device));

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

    /// <summary>Offers a disk, if its profile says so and it is not offered.</summary>
    /// <param name="profile">The disk's profile.</param>
    /// <param name="medium">The disk; it stays open until <see cref="CloseAsync"/> has ended.</param>
    /// <exception cref="VirtbusException">What the host answers of the address; EEXIST: an export has the name there.</exception>
    public async ValueTask OpenAsync(FunctionProfile profile, IBlockBackend medium)
    {
        await _turn.WaitAsync();
        try
        {
            if (profile.IsSet(Address) && !_open.ContainsKey(profile.Name))
                await MakeAsync(profile, medium);
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

    /// <summary>Offers a disk as its profile says now. What was offered otherwise is closed, and stays so when the new place is refused.</summary>
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
    public async ValueTask CloseAsync(string name)
    {
        await _turn.WaitAsync();
        try
        {
            if (!_open.TryGetValue(name, out var open))
                return;
            _open = _open.Where(o => o.Key != name).ToDictionary();
            open.Device.Endpoint = null;
            await open.Server.RemoveAsync(open.Export);
            await StopUnusedAsync(open.Server);
            open.User.Dispose();
            await BlockSubsystem.Of(context.Fabric).UnregisterAsync(open.Device);
        }
        finally
        {
            _turn.Release();
        }
    }

    private static NbdAddress AddressOf(FunctionProfile profile, string folder) => profile.Get(Address) switch
    {
        OwnSocket => NbdAddress.OfSocket(Path.Combine(folder, profile.Name + ".nbd")),
        ['/', ..] and var path => NbdAddress.OfSocket(path),
        var text => NbdAddress.OfTcp(text, profile.Get(Insecure)),
    };

    private async ValueTask MakeAsync(FunctionProfile profile, IBlockBackend medium)
    {
        var subsystem = BlockSubsystem.Of(context.Fabric);
        // The vDPA device has the disk's own name.
        var device = await subsystem.RegisterAsync(parent: null, profile.Name + "-nbd", medium, new BlockDeviceOptions { HasForcedWrites = true });
        BlockUser? user = null;
        try
        {
            user = device.Open("nbd");
            var server = Serve(AddressOf(profile, context.RuntimeFolder));
            var export = new NbdExport(profile.TryGet(ExportName, out var name) ? name : profile.Name, user, profile.Get(ReadOnly), $"disk {profile.Name}");
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
            _open = _open.Append(new(profile.Name, new Open(server, export, device, user))).ToDictionary();
        }
        catch
        {
            user?.Dispose();
            await subsystem.UnregisterAsync(device);
            throw;
        }
    }

    private NbdServer Serve(NbdAddress address)
    {
        if (_servers.TryGetValue(address.ToString(), out var there))
            return there;
        var server = new NbdServer(address, _log, context.Fabric.Time);
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

    private sealed record Open(NbdServer Server, NbdExport Export, BlockDevice Device, BlockUser User);
}
