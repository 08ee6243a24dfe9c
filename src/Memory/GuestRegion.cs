namespace Virtbus.Memory;

/// <summary>One region of guest memory as a front end describes it; the file comes with it as a descriptor.</summary>
/// <param name="Start">First guest address; any, a front end may use its own virtual addresses here.</param>
/// <param name="Size">Size in bytes, exact; need not be whole pages.</param>
/// <param name="User">The same place in the front end's process.</param>
/// <param name="FileOffset">Byte offset of the region in its file.</param>
public readonly record struct GuestRegion(GuestAddress Start, ulong Size, UserAddress User, ulong FileOffset);
