using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>Keeps a disk's cache mode as long as the medium is in its adapter: for media of which nothing outlives the program.</summary>
public sealed class VolatileCacheMode : ICacheModeStore
{
    private volatile bool _isWriteback = true;

    /// <inheritdoc/>
    public bool IsWriteback => _isWriteback;

    /// <inheritdoc/>
    public bool TryKeep(bool writeback, out Fault fault)
    {
        _isWriteback = writeback;
        fault = Fault.None;
        return true;
    }
}
