using Virtbus.Block;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Block;

/// <summary>The block subsystem: drivers register disks, users find them in class <c>block</c>, and open them.</summary>
public sealed class BlockSubsystem
{
    private const int MaxName = 127;
    private const int MinBlockSize = 512;
    private const int MaxBlockSize = 65536;

    private readonly Fabric _fabric;

    private BlockSubsystem(Fabric fabric) => _fabric = fabric;

    /// <summary>The class of the disks.</summary>
    public Class Class { get; } = new("block") { DeviceAttributeGroups = BlockAttributes.Groups };

    /// <summary>The block subsystem of a fabric, made at the first call.</summary>
    /// <param name="fabric">The fabric.</param>
    public static BlockSubsystem Of(Fabric fabric)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        return fabric.GetSubsystem(f =>
        {
            var subsystem = new BlockSubsystem(f);
            f.RegisterClass(subsystem.Class);
            return subsystem;
        });
    }

    /// <summary>The first name of a kind that no disk has, as Linux gives them: vda to vdz, vdaa and on.</summary>
    /// <param name="stem">The kind: <c>vd</c>, <c>nvme</c>.</param>
    public string NextName(string stem)
    {
        for (var i = 0; ; i++)
        {
            var name = stem + LettersOf(i);
            if (!Class.TryGetDevice(name, out _))
                return name;
        }
    }

    /// <summary>Registers a disk.</summary>
    /// <param name="parent">The hardware's device; null for a disk without one, which is in <c>/devices/virtual</c>.</param>
    /// <param name="name">The disk's name, at most 127 characters: <see cref="NextName"/>, or one that somebody chose.</param>
    /// <param name="backend">The driver's side. It stays the driver's, and open until <see cref="UnregisterAsync"/> has ended; each request ends.</param>
    /// <param name="options">What the driver says of the disk.</param>
    /// <exception cref="VirtbusException">EINVAL: the name is none, or the disk's limits are less than its block; EEXIST: a disk of that name is there.</exception>
    public async ValueTask<BlockDevice> RegisterAsync(Device? parent, string name, IBlockBackend backend, BlockDeviceOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(backend);
        if (string.IsNullOrEmpty(name) || name.Length > MaxName)
            throw new VirtbusException(Errno.EINVAL, $"'{name}' is no name of a disk. Choose one of 1 to {MaxName} characters.");
        Check(name, backend.Info);
        var device = new BlockDevice(this, name, parent, backend, options ?? new BlockDeviceOptions());
        try
        {
            return await _fabric.RegisterAsync(device);
        }
        catch
        {
            await device.EndAsync();
            throw;
        }
    }

    /// <summary>
    /// Takes a disk out. Requests that come from then on end with ENODEV, users are told (<see cref="BlockDevice.Gone"/>), and what is in work
    /// ends; after a second of that not happening it is given up, and ends with ENODEV.
    /// </summary>
    /// <param name="device">The disk.</param>
    /// <returns>A task that ends when no user reaches the driver's side any more.</returns>
    public async ValueTask UnregisterAsync(BlockDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        try
        {
            await device.EndAsync();
        }
        finally
        {
            await _fabric.UnregisterAsync(device);
        }
    }

    // What users count on; a disk that breaks it would have them divide a request for ever.
    private static void Check(string name, BlockInfo info)
    {
        if (info.BlockSize is < MinBlockSize or > MaxBlockSize || !int.IsPow2(info.BlockSize))
            throw new VirtbusException(Errno.EINVAL, $"Disk '{name}' has blocks of {info.BlockSize} bytes. Its driver has to give a power of two from {MinBlockSize} to {MaxBlockSize}.");
        if (info.Capacity < 0 || info.Capacity % info.BlockSize != 0)
            throw new VirtbusException(Errno.EINVAL, $"Disk '{name}' has {info.Capacity} bytes, which is no multiple of its block of {info.BlockSize}. Its driver has to say how many whole blocks there are.");
        if (IsLess(info.MaxTransfer) || IsLess(info.MaxDiscard) || IsLess(info.MaxWriteZeroes))
            throw new VirtbusException(Errno.EINVAL, $"Disk '{name}' takes less than its block of {info.BlockSize} bytes in one request. Its driver has to give a limit of a block at least, or 0 for none.");

        bool IsLess(long limit) => limit != 0 && limit < info.BlockSize;
    }

    private static string LettersOf(int index)
    {
        var letters = "";
        for (var rest = index; rest >= 0; rest = (rest / 26) - 1)
            letters = (char)('a' + (rest % 26)) + letters;
        return letters;
    }
}
