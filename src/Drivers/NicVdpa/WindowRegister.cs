namespace Virtbus.Drivers.NicVdpa;

/// <summary>
/// Byte offsets in a virtio window of the adapter's own registers, which stand behind those of the standard (docs/adapter-registers.md).
/// </summary>
internal static class WindowRegister
{
    /// <summary>The standard's queue_enable: 0 stops a queue here, which the standard has no write for.</summary>
    public const int QueueStop = Virtbus.Virtio.VirtioCommonConfig.queue_enable;
    public const int DeviceId = 0x40;
    public const int ConfigSize = 0x44;
    public const int QueuePoll = 0x4A;
    public const int QueueError = 0x4C;
    public const int QueueRequests = 0x50;
    public const int QueueBytes = 0x58;
    public const int QueueErrors = 0x60;
    public const int QueueKicks = 0x68;
    public const int QueueCalls = 0x70;
    public const int MaxQueueSize = 0x78;
    public const int ConfigError = 0x7C;
    public const int ErrorText = 0x80;
    public const int ErrorTextSize = 96;
    public const int NextUser = 0xE0;
    public const int QueuePlace = 0xE4;
    public const int QueueInPlace = 0xE8;
    public const int QueueUring = 0xF0;
    public const int QueueWorker = 0xF8;
    public const int DeviceConfig = 0x100;
}
