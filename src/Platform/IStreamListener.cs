namespace Virtbus.Platform;

/// <summary>A socket that listens, whatever its family. One thread accepts at a time.</summary>
public interface IStreamListener : IDisposable
{
    /// <summary>The socket, to wait on for a connection.</summary>
    FileDescriptor Descriptor { get; }

    /// <summary>Takes a waiting connection.</summary>
    /// <param name="error">
    /// The errno when the answer is null; EAGAIN when none waits; EMFILE when the process is at its reserve of descriptors, or those that connected
    /// here have as many as they may: the connection waits.
    /// </param>
    /// <returns>The connection, or null.</returns>
    UnixStream? TryAccept(out Errno error);
}
