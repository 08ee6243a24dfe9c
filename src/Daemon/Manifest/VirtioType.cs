namespace Virtbus.Daemon.Manifest;

/// <summary>The virtio devices that a manifest can name.</summary>
internal enum VirtioType
{
    Blk,
    Net,
    Console,
    Rng,
}
