using Virtbus.Block;

namespace Virtbus.Subsystems.Block;

/// <summary>A disk as one user has it open. When the disk is taken out it stays, and answers each request with ENODEV. Any thread.</summary>
public sealed class BlockUser : IBlockBackend
{
    private readonly BlockDevice _device;

    internal BlockUser(BlockDevice device, string name, BlockUse use)
    {
        _device = device;
        Name = name;
        Use = use;
    }

    /// <inheritdoc/>
    public event EventHandler? InfoChanged;

    /// <summary>Who has it open.</summary>
    public string Name { get; }

    /// <summary>Whether it is open for that user alone.</summary>
    public BlockUse Use { get; }

    /// <inheritdoc/>
    public string Description => _device.Name;

    /// <inheritdoc/>
    public BlockInfo Info => _device.Info;

    /// <inheritdoc/>
    public bool MayBlock => _device.Backend.MayBlock;

    /// <inheritdoc/>
    /// <exception cref="Platform.VirtbusException">ENODEV: the disk is gone; what the driver's side answers.</exception>
    public IBlockChannel OpenChannel(int depth, bool ownsThread = true) => new BlockDeviceChannel(_device, depth, ownsThread);

    /// <inheritdoc/>
    public BlockMemory? AllocateMemory(ulong bytes) => _device.AllocateMemory(bytes);

    /// <inheritdoc/>
    public BlockExtent FindExtent(long offset, long length) => _device.FindExtent(offset, length);

    /// <summary>Closes it for this user, whose channels are closed.</summary>
    public void Dispose() => _device.Close(this);

    internal void TellInfoChanged() => InfoChanged?.Invoke(this, EventArgs.Empty);
}
