"""What is selected in the subject hierarchy of the application."""

import slicer
from slicer.i18n import tr as _


def chosen_item(scan) -> tuple[int, str]:
    """Patient, study or folder that the user selected there; else the one that the scan lies in.

    :param scan: volume node, None where none is chosen
    :return: item of the subject hierarchy and its name
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    handler = getattr(slicer, "qSlicerSubjectHierarchyPluginHandler", None)  # of the application alone
    item = handler.instance().currentItem() if handler is not None else 0
    if not item or hierarchy.GetItemDataNode(item) is not None:  # nothing, or a volume: the scan says which
        own = hierarchy.GetItemByDataNode(scan) if scan is not None else 0
        item = hierarchy.GetItemParent(own) if own else hierarchy.GetSceneItemID()
    return item, _("Scene") if item == hierarchy.GetSceneItemID() else hierarchy.GetItemName(item)
