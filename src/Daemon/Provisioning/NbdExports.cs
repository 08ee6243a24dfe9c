using Microsoft.Extensions.Logging;
using Virtbus.Block;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Subsystems.Block;
using Virtbus.Transports.Nbd;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// The disks that are offered by NBD. Those that are functions, of an adapter or virtio, as attributes of their profiles say it, and in class <c>block</c> as long
/// as they are offered; other disks of that class by an attribute of their own. Those of one address are exports of one server. Safe from any thread; one change
/// at a time.
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
    private readonly Dictionary<string, Serving> _servers = [];
    // Of what is offered no more, and has clients in it perhaps: when they have left.
    private readonly Dictionary<string, Task> _leaving = [];
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

    /// <summary>Offers a function's disk, if its profile says so and it is not offered.</summary>
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
            // A device has the disk's own name, or a driver's disk may.
            var device = await subsystem.RegisterAsync(parent: null, profile.Name + "-nbd", medium, new BlockDeviceOptions { HasForcedWrites = true });
            try
            {
                await OfferAsync(profile.Name, device, WishOf(profile));
            }
            catch
            {
                await subsystem.UnregisterAsync(device);
                throw;
            }
        }
        catch (VirtbusException e)
        {
            throw e.At(Address.Name);
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Offers a function's disk as its profile says now; ends when no client has a request in it by the way it was offered before.</summary>
    /// <exception cref="VirtbusException">As <see cref="OpenAsync"/>; the disk is offered as before then, and its clients stay.</exception>
    public async ValueTask ChangeAsync(FunctionProfile after, IBlockBackend medium)
    {
        if (!after.IsSet(Address))
        {
            await CloseAsync(after.Name);
            return;
        }

        Task leaving;
        await _turn.WaitAsync();
        try
        {
            if (_open.TryGetValue(after.Name, out var open))
                await OfferAsync(after.Name, open.Device, WishOf(after));
            leaving = _leaving.GetValueOrDefault(after.Name) ?? Task.CompletedTask;
        }
        catch (VirtbusException e)
        {
            throw e.At(Address.Name);
        }
        finally
        {
            _turn.Release();
        }

        await leaving;
        await OpenAsync(after, medium);
    }

    /// <summary>Offers a disk no more; ends when no client has a request in it. One that is not offered is no error.</summary>
    /// <param name="key">The function's name; of another disk its device's path.</param>
    public async ValueTask CloseAsync(string key)
    {
        Task leaving;
        await _turn.WaitAsync();
        try
        {
            if (_open.TryGetValue(key, out var open))
            {
                _open = _open.Where(o => o.Key != key).ToDictionary();
                open.Device.Endpoint = null;
                Leave(key, open, isOver: true);
            }

            leaving = _leaving.GetValueOrDefault(key) ?? Task.CompletedTask;
        }
        finally
        {
            _turn.Release();
        }

        await leaving;
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

    private Wish WishOf(FunctionProfile profile) =>
        new(AddressOf(profile, _context.RuntimeFolder), profile.TryGet(ExportName, out var name) ? name : profile.Name, profile.Get(ReadOnly), Text: null);

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

        if (words.Length == 0)
        {
            await CloseAsync(device.DevPath);
            return;
        }

        var address = AddressOf(words[0], device.Name, _context.RuntimeFolder, words.Contains("insecure"));
        Task leaving;
        await _turn.WaitAsync();
        try
        {
            await OfferAsync(device.DevPath, device, new Wish(address, name, words.Contains("readonly"), string.Join(' ', words)));
            leaving = _leaving.GetValueOrDefault(device.DevPath) ?? Task.CompletedTask;
        }
        finally
        {
            _turn.Release();
        }

        await leaving;
    }

    // With the turn. What can fail comes first: the disk is offered as before then.
    private async ValueTask OfferAsync(string key, BlockDevice device, Wish wish)
    {
        var before = _open.GetValueOrDefault(key);
        // Of a function's disk whoever registered it sees to its going. Told before it is opened, so that its going is not missed.
        EventHandler? gone = wish.Text is null ? null : (_, _) => _ = CloseAsync(key).AsTask();
        device.Gone += gone;
        BlockUser? user = null;
        Serving? serving = null;
        try
        {
            user = device.Open("nbd");
            serving = Serve(wish.Address);
            var export = new NbdExport(wish.Name, user, wish.IsReadOnly, wish.Text is null ? $"disk {key}" : $"disk {device.Name}");
            var open = new Open(serving, export, device, user, gone, wish.Text);
            // The name may be the one that it has there now.
            var isInPlace = before is not null && before.Serving == serving && before.Export.Name == wish.Name;
            if (isInPlace)
                Leave(key, before!, isOver: false);
            serving.Server.Add(export);
            device.Endpoint = export;
            _open = _open.Where(o => o.Key != key).Append(new(key, open)).ToDictionary();
            if (before is not null && !isInPlace)
                Leave(key, before, isOver: false);
        }
        catch
        {
            device.Gone -= gone;
            user?.Dispose();
            if (serving is not null)
                await StopUnusedAsync(serving);
            throw;
        }
    }

    // With the turn, which it does not hold until the clients have left.
    private void Leave(string key, Open open, bool isOver)
    {
        foreach (var ended in _leaving.Where(static l => l.Value.IsCompleted).Select(static l => l.Key).ToArray())
            _leaving.Remove(ended);
        open.Device.Gone -= open.Gone;
        open.Serving.Leaving++;
        var leaving = LeaveAsync(open, open.Serving.Server.RemoveAsync(open.Export), isOver);
        _leaving[key] = _leaving.TryGetValue(key, out var others) ? Task.WhenAll(others, leaving) : leaving;
    }

    private async Task LeaveAsync(Open open, Task left, bool isOver)
    {
        try
        {
            // What a client has in work ends with the disk, if not by itself.
            if (isOver && open.IsOwnDevice)
                await BlockSubsystem.Of(_context.Fabric).UnregisterAsync(open.Device);
            await left;
        }
        finally
        {
            open.User.Dispose();
            await _turn.WaitAsync();
            try
            {
                open.Serving.Leaving--;
                await StopUnusedAsync(open.Serving);
            }
            finally
            {
                _turn.Release();
            }
        }
    }

    private Serving Serve(NbdAddress address)
    {
        if (_servers.TryGetValue(address.ToString(), out var there))
            return there;
        var serving = new Serving(new NbdServer(address, _log, _context.Fabric.Time));
        serving.Server.Start();
        _servers.Add(address.ToString(), serving);
        return serving;
    }

    private async ValueTask StopUnusedAsync(Serving serving)
    {
        if (serving.Server.Exports.Count > 0 || serving.Leaving > 0 || _servers.FirstOrDefault(s => s.Value == serving).Key is not { } address)
            return;
        _servers.Remove(address);
        await serving.Server.StopAsync();
    }

    // How a disk is to be offered.
    private sealed record Wish(NbdAddress Address, string Name, bool IsReadOnly, string? Text);

    // A server, and from how many exports that it has no more clients have still to leave.
    private sealed class Serving(NbdServer server)
    {
        public NbdServer Server { get; } = server;

        public int Leaving { get; set; }
    }

    // The text is what was written to the attribute of the disk; null for a function's.
    private sealed record Open(Serving Serving, NbdExport Export, BlockDevice Device, BlockUser User, EventHandler? Gone, string? Text)
    {
        public bool IsOwnDevice => Text is null;

        public string Name => IsOwnDevice ? Device.Name[..^"-nbd".Length] : Device.Name;
    }
}
