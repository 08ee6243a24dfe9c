using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Remote.Pci;

/// <summary>Memory that a function is let reach. A link takes of it what its other end can use.</summary>
/// <param name="Range">Where the function finds it.</param>
/// <param name="Access">What the function may do there.</param>
/// <param name="Address">Where all of it lies in this process, mapped until it is unmapped for the function; 0 when it does not lie there in one piece.</param>
/// <param name="File">Its file, if it was kept; valid during the call.</param>
/// <param name="FileOffset">Where in the file.</param>
/// <param name="Messages">What moves the bytes when the other end asks for them by messages.</param>
internal readonly record struct RemoteMap(
    IovaRange Range, DmaAccess Access, nint Address, FileDescriptor? File, ulong FileOffset, IRemoteMemory Messages);
