using Virtbus.Wire.VfioUser;

namespace Virtbus.Remote.Pci.VfioUser;

/// <summary>What a vfio-user client tells the server of itself, and how long it waits for it.</summary>
public sealed record VfioUserClientOptions
{
    /// <summary>How long the server may take for an answer; the connection is given up then. Seconds matter, not milliseconds.</summary>
    public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>The most descriptors taken in one message, 1 to 32 (max_msg_fds).</summary>
    public int MaxDescriptors { get; init; } = VfioUserProtocol.MaxDescriptors;

    /// <summary>The most bytes of data taken in one message, 1 to 1 MiB (max_data_xfer_size).</summary>
    public int MaxDataTransfer { get; init; } = VfioUserProtocol.MaxDataTransfer;

    /// <summary>
    /// Whether the server may read and write mapped memory by messages. Needed for memory that is mapped without a descriptor; some servers
    /// (libvfio-user) ask by messages even for what they could map.
    /// </summary>
    public bool ServeMemory { get; init; } = true;

    /// <summary>Whether a server that can sends its own requests on a second socket, so that they need no turn on the first (twin_socket).</summary>
    public bool TwinSocket { get; init; } = true;

    /// <summary>Called once, on a thread of the client, when the connection is over for a reason other than a dispose. It must not block.</summary>
    public Action? Lost { get; init; }
}
