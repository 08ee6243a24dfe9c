namespace Virtbus.Hardware.Adapter;

/// <summary>Kinds of events.</summary>
public enum AdapterEventType : ushort
{
    /// <summary>A command was executed: its tag, status and results.</summary>
    CommandDone = 1,
    /// <summary>The link changed; result 0: 1 up, 0 down.</summary>
    Link = 2,
    /// <summary>A queue set stopped; tag: its number; result 0: an <see cref="AdapterError"/>.</summary>
    QueueError = 3,
    /// <summary>A ring error stopped a queue of a virtio window; tag: the window; result 0: the queue; status: why.</summary>
    VirtioError = 4,
    /// <summary>The configuration of a virtio window changed by itself; tag: the window.</summary>
    VirtioConfig = 5,
}
