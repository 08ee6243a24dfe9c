namespace Virtbus.Virtio.Admin;

/// <summary>The virtual functions of the device that has an administration queue: the SR-IOV group. Any thread.</summary>
public interface IAdminMembers
{
    /// <summary>Whether the group is there: VF Enable is set.</summary>
    bool IsThere { get; }

    /// <summary>Whether members of this type can have a legacy form. It never changes.</summary>
    bool HaveLegacy { get; }

    /// <summary>Finds a member as it is now.</summary>
    /// <param name="index">Number of the function, from 0; any value.</param>
    /// <returns>The member, another object each time that VF Enable is set; null when there is none of that number.</returns>
    IAdminMember? Find(ulong index);
}
